"""What turns signals into triggers. Pure: values and `now` in, values out."""
