"""The side that decides: what the rules say of each service, the ledger, the guards. It opens incidents, no more."""
