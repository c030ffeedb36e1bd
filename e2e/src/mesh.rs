//! A whole mesh for a test, through the demo.
