"""The M-Pesa surface, as its clients, its payers and Safaricom see it."""
