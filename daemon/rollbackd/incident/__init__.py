"""An incident's life: folded from facts, and what comes next. Pure."""
