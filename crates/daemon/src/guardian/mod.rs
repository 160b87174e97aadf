//! The tiny process that is the parent of every service and the only one that reaps.
