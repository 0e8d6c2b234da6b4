//! Which chunk and which symbols go next: the sans-I/O scheduler.
