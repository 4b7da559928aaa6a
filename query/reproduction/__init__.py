"""The paper's tables and figures, measured in stages, beside those that were published."""
