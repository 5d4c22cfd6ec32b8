//! Documents, chat templates and token chunks.
