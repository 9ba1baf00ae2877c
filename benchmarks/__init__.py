"""Every figure that the README claims comes from here."""
