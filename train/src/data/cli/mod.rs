//! What `vila data ingest|info|verify|show` prints, apart from parsing its arguments.

