//! The metadata log from outside, over stores that behave and stores that do not.

mod basics;
mod formats;
mod journal;
