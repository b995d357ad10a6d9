"""Chapter 7: numbers are small now; what does it cost to move and multiply them?"""
