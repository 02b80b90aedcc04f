"""The hard half of the classes: things that come together, or look like what they are not."""
