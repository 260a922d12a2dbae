//! Which known word an unknown one was most likely meant to be.

/// Suggestions shown at most.
const SUGGESTIONS_MAX: usize = 2;

/// The known words with the smallest edit distance from `found`; ties in the given order.
pub(crate) fn nearest<'w>(found: &str, known: impl IntoIterator<Item = &'w str>) -> Vec<&'w str> {
    // Long words are compared by their start: no name or key is longer, and the table stays small.
    let found: Vec<char> = found.chars().take(64).collect();
    let mut scored: Vec<(usize, &str)> =
        known.into_iter().map(|word| (edit_distance(&found, word), word)).collect();
    scored.sort_by_key(|&(distance, _)| distance);
    scored.dedup();
    let best = scored.first().map_or(0, |&(distance, _)| distance);
    scored
        .into_iter()
        .take_while(|&(distance, _)| distance == best)
        .map(|(_, word)| word)
        .take(SUGGESTIONS_MAX)
        .collect()
}

/// The nearest known words, if they are so near that they may have been meant.
pub fn near_enough<'w>(found: &str, known: impl IntoIterator<Item = &'w str>) -> Vec<&'w str> {
    let mut near = nearest(found, known);
    let letters: Vec<char> = found.chars().take(64).collect();
    near.retain(|word| edit_distance(&letters, word) * 2 <= letters.len().max(word.chars().count()));
    near
}

/// Insertions, deletions and replacements that turn one word into the other (Levenshtein).
fn edit_distance(from: &[char], to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for (row, from_char) in from.iter().enumerate() {
        let mut diagonal = above[0];
        above[0] = row + 1;
        for (column, to_char) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(from_char != to_char);
            diagonal = above[column + 1];
            above[column + 1] = replaced.min(diagonal + 1).min(above[column] + 1);
        }
    }
    above[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distance(from: &str, to: &str) -> usize {
        edit_distance(&from.chars().collect::<Vec<_>>(), to)
    }

    #[test]
    fn counts_single_character_edits() {
        assert_eq!(distance("", ""), 0);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("bleu", "blue"), 2);
    }

    #[test]
    fn suggests_the_closest_word_and_both_of_a_tie() {
        assert_eq!(nearest("regoin_mib", ["region_mib", "name"]), ["region_mib"]);
        assert_eq!(nearest("fw2", ["fw0", "fw1", "rt0"]), ["fw0", "fw1"]);
        assert!(nearest("x", []).is_empty());
    }

    #[test]
    fn does_not_suggest_what_shares_less_than_half() {
        assert_eq!(near_enough("ring_slot", ["service", "ring_slots"]), ["ring_slots"]);
        assert_eq!(near_enough("abcd", ["abxy"]), ["abxy"]);
        assert!(near_enough("abcd", ["axyz"]).is_empty());
        assert!(near_enough("nf", ["service", "ring_slots"]).is_empty());
    }
}
