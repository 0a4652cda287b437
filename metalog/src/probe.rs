//! Does a store keep its promise of conditional creates, under a race?
