pub mod check;
pub mod object;
