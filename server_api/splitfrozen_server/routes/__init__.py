"""HTTP <-> domain: one router a noun."""
