//! Whether a series of samples grows.

/// A sample: when, in seconds, and how much.
pub type Sample = (f64, f64);

/// The slope per second by Theil and Sen: the median of the slopes between all pairs, which a few outliers do not move. 0
/// for fewer than two samples.
pub fn slope(samples: &[Sample]) -> f64 {
    let mut slopes = Vec::new();
    for (at, (when, value)) in samples.iter().enumerate() {
        for (later, other) in &samples[at + 1..] {
            if later > when {
                slopes.push((other - value) / (later - when));
            }
        }
    }
    median(&mut slopes)
}

/// 0 for nothing.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}

/// The medians of the first and of the last third.
pub fn thirds(samples: &[Sample]) -> (f64, f64) {
    let third = samples.len().div_ceil(3);
    let of = |part: &[Sample]| median(&mut part.iter().map(|(_, value)| *value).collect::<Vec<_>>());
    (of(&samples[..third]), of(&samples[samples.len() - third..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_slope_whatever_a_few_outliers_say() {
        let mut samples: Vec<Sample> =
            (0..100).map(|at| (f64::from(at), 7.0 + 0.5 * f64::from(at))).collect();
        assert!((slope(&samples) - 0.5).abs() < 1e-9);
        for at in [3, 50, 97] {
            samples[at].1 = 1e6;
        }
        assert!((slope(&samples) - 0.5).abs() < 0.01);
        let (first, last) = thirds(&samples);
        assert!(last - first > 30.0 && last - first < 36.0, "{first} {last}");
    }

    #[test]
    fn little_has_no_trend() {
        assert_eq!(slope(&[]), 0.0);
        assert_eq!(slope(&[(1.0, 5.0)]), 0.0);
        assert_eq!(thirds(&[(1.0, 5.0)]), (5.0, 5.0));
        assert_eq!(thirds(&[]), (0.0, 0.0));
    }
}
