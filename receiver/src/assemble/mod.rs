//! What passes becomes chunks: the sans-I/O assembler.
