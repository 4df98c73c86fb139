//! Puts the steps together for one go-live.
