"""Where signals come from. What cannot be read in full is a problem with a sentence, never a value."""
