//! Faults that were mended; each test is named after its fault.
