//! Our inbound ESP SPIs: unique while in use, never 0-255 (RFC 4303 §2.1), carrying owner and slot for steering.
