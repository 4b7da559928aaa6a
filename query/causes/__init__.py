"""What visual tokens do: the model's own words when some of them are taken out, or written over."""
