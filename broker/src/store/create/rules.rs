//! From the lifecycle rules that a bucket has to those that it is to have. No I/O.

use aws_sdk_s3::types::{
    AbortIncompleteMultipartUpload, ExpirationStatus, LifecycleExpiration, LifecycleRule, LifecycleRuleFilter,
};

use super::Plan;

/// What is to be done about the rules of a bucket.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    /// C3. Each of the rules, in words.
    Refuse(Vec<String>),
    /// Ours is there as it is to be.
    Leave,
    /// All rules, everybody else's as they were (C2).
    Write { rules: Vec<LifecycleRule>, replaces: bool },
}

pub(super) fn decide(plan: &Plan, present: &[LifecycleRule]) -> Decision {
    let harmful: Vec<String> = present.iter().filter_map(|rule| harm(plan, rule)).collect();
    if !harmful.is_empty() {
        return Decision::Refuse(harmful);
    }
    let (id, ours) = (plan.rule_id(), rule_of(plan));
    let mut rules = present.to_vec();
    let replaces = match rules.iter_mut().find(|rule| rule.id() == Some(&id)) {
        Some(rule) if same(rule, &ours) => return Decision::Leave,
        Some(rule) => {
            *rule = ours;
            true
        }
        None => {
            rules.push(ours);
            false
        }
    };
    Decision::Write { rules, replaces }
}

fn rule_of(plan: &Plan) -> LifecycleRule {
    let days = i32::from(plan.unfinished_upload_days);
    LifecycleRule::builder()
        .id(plan.rule_id())
        .status(ExpirationStatus::Enabled)
        .filter(LifecycleRuleFilter::builder().prefix(&plan.key_prefix).build())
        .abort_incomplete_multipart_upload(
            AbortIncompleteMultipartUpload::builder().days_after_initiation(days).build(),
        )
        .build()
        .expect("it has a status")
}

/// Servers spell "everything" in different ways, so the filters are compared by what they mean.
fn same(rule: &LifecycleRule, ours: &LifecycleRule) -> bool {
    scope(rule) == scope(ours)
        && rule.status() == ours.status()
        && rule.abort_incomplete_multipart_upload() == ours.abort_incomplete_multipart_upload()
        && rule.expiration().is_none()
        && rule.transitions().is_empty()
        && rule.noncurrent_version_expiration().is_none()
        && rule.noncurrent_version_transitions().is_empty()
}

/// What a rule is about: keys with this prefix, and whether only objects with certain tags. Bounds of size are left out
/// of account: objects of ours are of any size.
fn scope(rule: &LifecycleRule) -> (&str, bool) {
    let filter = rule.filter();
    let and = filter.and_then(LifecycleRuleFilter::and);
    // Rules of old have it outside of a filter.
    #[expect(deprecated, reason = "such rules are still there")]
    let outside = rule.prefix();
    let prefix = and.and_then(|and| and.prefix()).or(filter.and_then(|filter| filter.prefix())).or(outside);
    let tagged =
        filter.is_some_and(|filter| filter.tag().is_some()) || and.is_some_and(|and| !and.tags().is_empty());
    (prefix.unwrap_or_default(), tagged)
}

/// What an enabled rule would do to objects of the cluster. They have no tags; earlier versions of them, in a bucket that
/// keeps those, are garbage.
fn harm(plan: &Plan, rule: &LifecycleRule) -> Option<String> {
    let (prefix, tagged) = scope(rule);
    let meets = prefix.starts_with(&plan.key_prefix) || plan.key_prefix.starts_with(prefix);
    if !meets || tagged || *rule.status() == ExpirationStatus::Disabled {
        return None;
    }
    let does = if rule.expiration().is_some_and(deletes) {
        "deletes"
    } else if !rule.transitions().is_empty() {
        "moves"
    } else {
        return None;
    };
    let name = rule.id().unwrap_or("(without an ID)");
    let objects =
        if prefix.is_empty() { "all objects".to_owned() } else { format!("objects under {prefix:?}") };
    Some(format!("{name:?} {does} {objects}"))
}

/// Whether it is about objects, rather than about what deleting left in a bucket with versions.
fn deletes(expiration: &LifecycleExpiration) -> bool {
    expiration.days().is_some()
        || expiration.date().is_some()
        || expiration.expired_object_delete_marker() != Some(true)
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::builders::LifecycleRuleBuilder;
    use aws_sdk_s3::types::{
        LifecycleRuleAndOperator, NoncurrentVersionExpiration, Tag, Transition, TransitionStorageClass,
    };
    use proptest::prelude::*;

    use super::*;

    fn plan(key_prefix: &str) -> Plan {
        Plan {
            bucket: "b".to_owned(),
            key_prefix: key_prefix.to_owned(),
            region: "us-east-1".to_owned(),
            zone: None,
            endpoint: None,
            unfinished_upload_days: 1,
        }
    }

    fn rule(prefix: &str) -> LifecycleRuleBuilder {
        LifecycleRule::builder()
            .id(format!("somebody's of {prefix}"))
            .status(ExpirationStatus::Enabled)
            .filter(LifecycleRuleFilter::builder().prefix(prefix).build())
    }

    fn expiring(prefix: &str) -> LifecycleRuleBuilder {
        rule(prefix).expiration(LifecycleExpiration::builder().days(3).build())
    }

    fn built(rules: impl IntoIterator<Item = LifecycleRuleBuilder>) -> Vec<LifecycleRule> {
        rules.into_iter().map(|rule| rule.build().unwrap()).collect()
    }

    fn written(decision: Decision) -> (Vec<LifecycleRule>, bool) {
        match decision {
            Decision::Write { rules, replaces } => (rules, replaces),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_rule_is_added_once_and_the_others_stay() {
        let others = built([
            expiring("logs/"),
            rule("").expiration(LifecycleExpiration::builder().expired_object_delete_marker(true).build()),
        ]);
        let (rules, replaces) = written(decide(&plan("c/"), &others));
        assert!(!replaces);
        assert_eq!(rules[..2], others[..]);
        assert_eq!(rules[2], rule_of(&plan("c/")));
        assert_eq!(decide(&plan("c/"), &rules), Decision::Leave);
        // Another cluster in the same bucket has a rule of its own.
        assert_eq!(written(decide(&plan("d/"), &rules)).0.len(), 4);
    }

    #[test]
    fn a_rule_of_ours_that_says_something_else_is_replaced_where_it_stands() {
        let with = |change: fn(&mut LifecycleRule)| {
            let mut ours = rule_of(&plan("c/"));
            change(&mut ours);
            let present = [ours, expiring("logs/").build().unwrap()];
            decide(&plan("c/"), &present)
        };
        let changes: [fn(&mut LifecycleRule); 3] = [
            |rule| rule.status = ExpirationStatus::Disabled,
            |rule| rule.filter = Some(LifecycleRuleFilter::builder().prefix("x/").build()),
            |rule| {
                let days = AbortIncompleteMultipartUpload::builder().days_after_initiation(9).build();
                rule.abort_incomplete_multipart_upload = Some(days);
            },
        ];
        for change in changes {
            let (rules, replaces) = written(with(change));
            assert!(replaces);
            assert_eq!(rules, [rule_of(&plan("c/")), expiring("logs/").build().unwrap()]);
        }
        assert_eq!(with(|_| ()), Decision::Leave);
    }

    #[test]
    fn everything_is_the_same_however_it_is_spelled() {
        let mut ours = rule_of(&plan(""));
        for filter in [None, Some(LifecycleRuleFilter::builder().build())] {
            ours.filter = filter;
            assert_eq!(decide(&plan(""), std::slice::from_ref(&ours)), Decision::Leave);
        }
    }

    #[test]
    fn rules_that_destroy_data_are_refused_by_name() {
        let transition = Transition::builder().days(1).storage_class(TransitionStorageClass::Glacier).build();
        let and = LifecycleRuleAndOperator::builder().prefix("c/").object_size_greater_than(5).build();
        #[expect(deprecated, reason = "such rules are still there")]
        let of_old = expiring("").set_filter(None).prefix("c");
        let harmful = [
            (expiring(""), r#""somebody's of " deletes all objects"#),
            (expiring("c/wal/"), r#"deletes objects under "c/wal/""#),
            (rule("c/").transitions(transition), r#"moves objects under "c/""#),
            (expiring("").filter(LifecycleRuleFilter::builder().and(and).build()), r#"under "c/""#),
            (of_old.set_id(None), r#""(without an ID)" deletes objects under "c""#),
            // A state or an action that S3 may come to have.
            (expiring("").status(ExpirationStatus::from("Sometimes")), "deletes all"),
            (rule("").expiration(LifecycleExpiration::builder().build()), "deletes all"),
        ];
        for (rule, expected) in harmful {
            match decide(&plan("c/"), &built([expiring("logs/"), rule])) {
                Decision::Refuse(said) => assert!(said.len() == 1 && said[0].contains(expected), "{said:?}"),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn rules_that_touch_nothing_of_the_cluster_are_let_be() {
        let tag = Tag::builder().key("k").value("v").build().unwrap();
        let tagged = LifecycleRuleAndOperator::builder().prefix("c/").tags(tag.clone()).build();
        let harmless = [
            expiring("cc/"),
            expiring("").status(ExpirationStatus::Disabled),
            expiring("").filter(LifecycleRuleFilter::builder().tag(tag).build()),
            expiring("").filter(LifecycleRuleFilter::builder().and(tagged).build()),
            rule("").noncurrent_version_expiration(
                NoncurrentVersionExpiration::builder().noncurrent_days(1).build(),
            ),
        ];
        let others = built(harmless);
        assert_eq!(written(decide(&plan("c/"), &others)).0[..others.len()], others[..]);
    }

    proptest! {
        /// The model asks of each key whether a rule that deletes would delete it.
        #[test]
        fn a_rule_is_refused_if_some_key_of_the_cluster_is_under_it(
            cluster in "([ab]{1,2}/){0,2}",
            prefixes in prop::collection::vec("[ab/]{0,4}", 0..4),
        ) {
            let keys: Vec<String> = all_words(4).map(|word| format!("{cluster}{word}")).collect();
            let doomed = |prefix: &String| keys.iter().any(|key| key.starts_with(prefix.as_str()));
            let decision = decide(&plan(&cluster), &built(prefixes.iter().map(|prefix| expiring(prefix))));
            match decision {
                Decision::Refuse(said) => {
                    prop_assert_eq!(said.len(), prefixes.iter().filter(|prefix| doomed(prefix)).count());
                }
                _ => prop_assert!(!prefixes.iter().any(doomed)),
            }
        }
    }

    /// All words of `length` letters of the little alphabet above.
    fn all_words(length: u32) -> impl Iterator<Item = String> {
        (0..3usize.pow(length))
            .map(move |number| (0..length).map(|at| ['a', 'b', '/'][number / 3usize.pow(at) % 3]).collect())
    }
}
