"""Bronze: landed files become typed rows that remember their file and their load time. Every table is loaded the same
way: see `load`.
"""
