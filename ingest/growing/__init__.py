"""A corpus that grows: sentences are taken from a stream where they come nearer to what a bank has no words for."""
