//! Two or more ways to do the same, in turn: A B, B A, A B … What else the machine does meets all of them alike, and the
//! ratio of neighbours says more than either figure.

use serde_json::{Value, json};

use crate::cpu::round;
use crate::trend::median;

/// `rounds` times each of `N` ways, forwards and backwards in turn; `run` is told which.
pub fn take_turns<T, const N: usize>(
    rounds: usize,
    mut run: impl FnMut(usize) -> anyhow::Result<T>,
) -> anyhow::Result<[Vec<T>; N]> {
    let mut runs = [(); N].map(|()| Vec::with_capacity(rounds));
    for round in 0..rounds {
        for turn in 0..N {
            let arm = if round % 2 == 0 { turn } else { N - 1 - turn };
            runs[arm].push(run(arm)?);
        }
    }
    Ok(runs)
}

/// Of several runs' figures.
#[derive(Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub smallest: f64,
    pub largest: f64,
}

impl Spread {
    pub fn of(figures: impl Iterator<Item = f64>) -> Spread {
        let mut figures: Vec<f64> = figures.collect();
        let median = median(&mut figures);
        let end = |figure: Option<&f64>| figure.copied().unwrap_or(0.0);
        Spread { median, smallest: end(figures.first()), largest: end(figures.last()) }
    }

    pub fn said(&self) -> Value {
        json!({ "median": round(self.median), "smallest": round(self.smallest), "largest": round(self.largest) })
    }
}

/// One way's figures by the other's, pair by pair.
#[derive(Debug)]
pub struct Ratios(Vec<f64>);

impl Ratios {
    /// Pairs with a figure of 0 say nothing and are left out.
    pub fn of<T>(ones: &[T], others: &[T], figure: impl Fn(&T) -> f64) -> Ratios {
        let ratio = |(one, other): (&T, &T)| figure(one) / figure(other);
        Ratios(ones.iter().zip(others).map(ratio).filter(|ratio| ratio.is_finite() && *ratio > 0.0).collect())
    }

    /// How likely it is that as many pairs or more lean to one side if there is no difference: the two-sided sign test.
    /// Under 0.05 the pairs show one.
    pub fn chance(&self) -> f64 {
        let above = self.0.iter().filter(|ratio| **ratio > 1.0).count();
        let below = self.0.iter().filter(|ratio| **ratio < 1.0).count();
        let count = above + below;
        let mut term = 0.5f64.powi(count as i32);
        let mut tail = 0.0;
        for at in 0..=above.min(below) {
            tail += term;
            term *= (count - at) as f64 / (at + 1) as f64;
        }
        (2.0 * tail).min(1.0)
    }

    pub fn said(&self) -> Value {
        let mut said = Spread::of(self.0.iter().copied()).said();
        said["chance"] = round(self.chance()).into();
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_round_goes_backwards() {
        let mut order = Vec::new();
        let [first, second] = take_turns(3, |arm| {
            order.push(arm);
            Ok(order.len())
        })
        .unwrap();
        assert_eq!(order, [0, 1, 1, 0, 0, 1]);
        assert_eq!((first, second), (vec![1, 4, 5], vec![2, 3, 6]));
    }

    #[test]
    fn ratios_are_of_neighbours_and_have_a_spread() {
        let ratios = Ratios::of(&[1.0, 20.0, 3.0, 5.0], &[2.0, 10.0, 3.0, 0.0], |figure| *figure);
        assert_eq!(ratios.0, [0.5, 2.0, 1.0]);
        let spread = Spread::of(ratios.0.iter().copied());
        assert_eq!(spread, Spread { median: 1.0, smallest: 0.5, largest: 2.0 });
    }

    /// The table of the sign test: of 20, 5 to 15 is just about a difference at 5 %, 6 to 14 is none.
    #[test]
    fn the_sign_test_is_the_table_s() {
        let leaning =
            |above: usize, below: usize| Ratios([vec![1.1; above], vec![0.9; below]].concat()).chance();
        assert!((leaning(15, 5) - 0.0414).abs() < 1e-4);
        assert!((leaning(5, 15) - 0.0414).abs() < 1e-4);
        assert!((leaning(14, 6) - 0.1153).abs() < 1e-4);
        assert_eq!(leaning(10, 10), 1.0);
        assert_eq!(leaning(0, 0), 1.0);
    }
}
