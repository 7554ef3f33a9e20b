//! cdn
