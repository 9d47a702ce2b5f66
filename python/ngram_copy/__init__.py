"""How well can a sequence model copy from its context?"""
