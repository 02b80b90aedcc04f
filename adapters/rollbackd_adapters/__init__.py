"""The adapters that come with rollbackd. They know the contract, the spawner and the clock only."""
