"""Thinking: optimising y at inference, over steps and candidates, and choosing among them."""

from ebm.thinking.choosing import Candidates, Choice, Select, check_choices
from ebm.thinking.thinker import Considered, Thinker, Thought, think
from ebm.thinking.walk import Counted

__all__ = ["Candidates", "Choice", "Considered", "Counted", "Select", "Thinker", "Thought", "check_choices", "think"]
