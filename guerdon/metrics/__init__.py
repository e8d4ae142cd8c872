"""Texts to numbers: BLEU, chrF, ROUGE-L, TER, diversity, and what may be concluded from a difference between them."""
