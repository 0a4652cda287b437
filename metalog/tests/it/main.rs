//! The metadata log from outside, over stores that behave and stores that do not.

mod basics;
mod clock;
mod formats;
mod history;
mod journal;
mod probe;
mod rough;
mod storm;
