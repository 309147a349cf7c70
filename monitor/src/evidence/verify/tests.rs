//! Hostile directories and archives.
