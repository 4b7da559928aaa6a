"""A corpus that grows: which visual tokens have no near context in a bank, and sentences that are written for them."""
