//! The threads of a serving sender: reader, transmitter and what joins them.
