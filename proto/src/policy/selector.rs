//! Traffic selectors: intersection, narrowing (RFC 7296 §2.9) and the check of inner packets (RFC 4301 §5.2).
