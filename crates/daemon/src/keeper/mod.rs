//! The tiny process that carries the services' output into files.
