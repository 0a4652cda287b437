//! Bad input gets a clear answer and harms nobody else: hostile peers, damaged and foreign files, stores that fail, clocks that
//! are hours apart.

mod clocks;
mod damage;
mod gate;
mod hostile_peers;
mod outages;
