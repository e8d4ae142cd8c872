"""Texts that metrics are checked on."""

from hypothesis import strategies as st

_WORDS = ["the", "The", "pub", "is", "near", "Café", "£20-25,", "(cheap)", "it's", "3.5", "a", "...", "中文", "&quot;", "x-\ny"]
SENTENCES = st.lists(st.sampled_from(_WORDS), max_size=12).map(" ".join) | st.text(max_size=30)
GROUPS = st.lists(st.tuples(SENTENCES, st.lists(SENTENCES, min_size=1, max_size=4)), min_size=1, max_size=5)


def columns(references):
    """The references as sacrebleu takes them: one list per reference number, None where a source has fewer."""
    width = max(map(len, references))
    return [[group[i] if i < len(group) else None for group in references] for i in range(width)]
