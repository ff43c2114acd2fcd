"""Work that leaves this process: how values travel (`theus.pools.codec`)."""
