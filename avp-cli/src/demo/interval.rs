//! How sure a share is that was counted.

/// The 95 % interval of a share of which `count` of `n` were counted, after Wilson.
pub(crate) fn wilson(count: usize, n: usize) -> [f64; 2] {
    const Z: f64 = 1.959_964;
    if n == 0 {
        return [0.0, 1.0];
    }
    let (n, share) = (n as f64, count as f64 / n as f64);
    let scale = 1.0 + Z * Z / n;
    let middle = (share + Z * Z / (2.0 * n)) / scale;
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt() / scale;
    [(middle - half).max(0.0), (middle + half).min(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_tables() {
        // Wilson score intervals as statsmodels' proportion_confint gives them.
        for (count, n, expected) in
            [(50, 100, [0.4038, 0.5962]), (0, 10, [0.0, 0.2775]), (995, 1000, [0.9883, 0.9979])]
        {
            let got = wilson(count, n);
            let is_near = got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 5e-5);
            assert!(is_near, "{count} of {n}: {got:?}");
        }
    }
}
