//! Queries: equality, range, order, pages, over declared fields.

use super::StoreHarness;
use super::fixture::{Fixture, Item, Mixed, START, assert_code};
use crate::store::{Filter, IndexValue, PAGE_MAX, Query, Record, StoreExt, TypedQuery, WriteBatch};

type Items = TypedQuery<Item>;

async fn fill(f: &Fixture, items: impl IntoIterator<Item = Item>) {
    let batch = items.into_iter().fold(WriteBatch::new(), |batch, item| batch.put(&item).unwrap());
    f.commit(batch).await.unwrap();
}

async fn ids(f: &Fixture, query: Items) -> Vec<String> {
    f.list(query).await.unwrap().records.into_iter().map(|item| item.record.id).collect()
}

/// Equality takes values literally, whatever their characters mean elsewhere, and never across types.
pub async fn equality_finds_exactly_that_value(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let groups = ["", "a", "A", "a ", "á", "%", "_", "a%", "'", "\"", "\\", "$ne", "{}", "1", "null", "🦀"];
    fill(&f, groups.iter().enumerate().map(|(n, group)| Item::new(&n.to_string(), group))).await;
    for (n, group) in groups.iter().enumerate() {
        assert_eq!(ids(&f, Items::new().equal("group", *group)).await, [n.to_string()], "{group:?}");
    }
    assert!(ids(&f, Items::new().equal("group", "absent")).await.is_empty());
    assert!(ids(&f, Items::new().equal("group", 1_i64)).await.is_empty());
}

/// Ranges include both ends, and numbers are not compared with texts.
pub async fn ranges_include_their_ends_and_keep_to_their_type(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let numbers = [i64::MIN, -1, 0, 1, i64::MAX].map(Mixed::Number);
    let words = ["", "0", "b", "ba", "c"].map(|word| Mixed::Word(word.to_owned()));
    let all: Vec<_> = numbers.into_iter().chain(words).enumerate().collect();
    fill(&f, all.iter().map(|(n, mixed)| Item::mixed(&n.to_string(), mixed.clone()))).await;
    let query = || Items::new().order_by("mixed");
    assert_eq!(ids(&f, query().at_least("mixed", 0_i64)).await, ["2", "3", "4"]);
    assert_eq!(ids(&f, query().at_most("mixed", 0_i64)).await, ["0", "1", "2"]);
    assert_eq!(ids(&f, query().at_least("mixed", i64::MAX)).await, ["4"]);
    assert_eq!(ids(&f, query().at_most("mixed", i64::MIN)).await, ["0"]);
    assert_eq!(ids(&f, query().at_least("mixed", "b")).await, ["7", "8", "9"]);
    assert_eq!(ids(&f, query().at_most("mixed", "b")).await, ["5", "6", "7"]);
    assert_eq!(ids(&f, query().at_most("mixed", "")).await, ["5"]);
    assert_eq!(ids(&f, query().at_least("mixed", -1_i64).at_most("mixed", 1_i64).descending()).await, ["3", "2", "1"]);
    assert!(ids(&f, query().at_least("mixed", 1_i64).at_most("mixed", 0_i64)).await.is_empty());
    assert!(ids(&f, query().at_least("mixed", 0_i64).at_most("mixed", "b")).await.is_empty());
    assert_eq!(ids(&f, Items::new().at_least("mixed", 1_i64)).await, ["3", "4"]);
    assert_eq!(ids(&f, query()).await, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"], "numbers before texts");

    let at = |seconds: i64| START + time::Duration::seconds(seconds);
    let times = [-1_i64, 0, 1].map(|seconds| {
        let IndexValue::Int(millis) = IndexValue::from(at(seconds)) else { unreachable!("times are numbers") };
        Item::ranked(&format!("t{seconds}"), "times", millis)
    });
    fill(&f, times).await;
    assert_eq!(ids(&f, Items::new().at_most("rank", START).order_by("rank")).await, ["t-1", "t0"]);
}

/// Equal values sort by id; descending turns both round.
pub async fn order_is_by_value_and_then_by_id(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let items = [("d", 1), ("a", 2), ("c", 1), ("b", 2), ("e", 0)];
    fill(&f, items.map(|(id, rank)| Item::ranked(id, "g", rank))).await;
    assert_eq!(ids(&f, Items::new().order_by("rank")).await, ["e", "c", "d", "a", "b"]);
    assert_eq!(ids(&f, Items::new().order_by("rank").descending()).await, ["b", "a", "d", "c", "e"]);
    assert_eq!(ids(&f, Items::new()).await, ["a", "b", "c", "d", "e"]);
    assert_eq!(ids(&f, Items::new().descending()).await, ["e", "d", "c", "b", "a"]);
    assert_eq!(ids(&f, Items::new().equal("rank", 1_i64).descending()).await, ["d", "c"]);
}

/// Text sorts by its bytes, not by the rules of any language; numbers sort by value.
pub async fn text_sorts_by_bytes_and_numbers_by_value(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let texts = ["", "10", "9", "B", "Z", "a", "aa", "b", "z", "é", "\u{ffff}", "🦀"];
    fill(&f, texts.iter().map(|text| Item::new(&format!("i{text}"), text))).await;
    let sorted: Vec<_> = texts.iter().map(|text| format!("i{text}")).collect();
    assert_eq!(ids(&f, Items::new().order_by("group")).await, sorted);
    assert_eq!(ids(&f, Items::new()).await, sorted);
    let numbers = [i64::MIN, -10, -9, 0, 9, 10, i64::MAX];
    fill(&f, numbers.iter().enumerate().map(|(n, rank)| Item::ranked(&format!("n{n}"), "n", *rank))).await;
    assert_eq!(ids(&f, Items::new().order_by("rank")).await, ["n0", "n1", "n2", "n3", "n4", "n5", "n6"]);
}

/// Sorting by a field leaves out what does not have it.
pub async fn a_record_without_the_sort_field_is_left_out(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    fill(&f, [Item::new("bare", "g"), Item::ranked("ranked", "g", 1)]).await;
    assert_eq!(ids(&f, Items::new().equal("group", "g").order_by("rank")).await, ["ranked"]);
    assert_eq!(ids(&f, Items::new().equal("group", "g")).await, ["bare", "ranked"]);
    assert!(ids(&f, Items::new().order_by("mixed")).await.is_empty());
}

/// Whatever the size of the pages, every record comes once, in order, and the last page says that it is the last.
pub async fn pages_visit_every_record_once(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    // Long runs of equal values, so that pages begin and end within them.
    fill(&f, (0..24).map(|n| Item::ranked(&format!("{n:02}"), if n % 2 == 0 { "even" } else { "odd" }, n / 9))).await;
    let shapes: [fn() -> Items; 5] = [
        Items::new,
        || Items::new().equal("group", "odd"),
        || Items::new().order_by("rank"),
        || Items::new().equal("group", "even").order_by("rank"),
        || Items::new().at_least("rank", 1_i64).order_by("rank"),
    ];
    for shape in shapes {
        for descending in [false, true] {
            let query = || if descending { shape().descending() } else { shape() };
            let whole = f.list(query()).await.unwrap();
            assert_eq!(whole.next, None);
            for limit in [1, 2, 3, 5, whole.records.len()] {
                let mut paged = Vec::new();
                let mut raw = query().limit(limit).into_raw().unwrap();
                let pages = whole.records.len().div_ceil(limit);
                for number in 1..=pages {
                    let page = f.query(&raw).await.unwrap();
                    assert!(page.records.len() == limit || number == pages);
                    paged.extend(page.records.into_iter().map(|record| record.id));
                    assert_eq!(page.next.is_none(), number == pages, "page {number} of {pages}, limit {limit}");
                    raw.after = page.next;
                }
                let expected: Vec<_> = whole.records.iter().map(|item| item.id.clone()).collect();
                assert_eq!(paged, expected, "limit {limit}, descending {descending}");
            }
        }
    }
    fill(&f, (0..PAGE_MAX + 10).map(|n| Item::new(&format!("many{n}"), "many"))).await;
    assert_eq!(f.list_all(Items::new().equal("group", "many")).await.unwrap().len(), PAGE_MAX + 10);
}

/// A put replaces the whole index: former values and fields no longer find the record.
pub async fn an_index_follows_its_record(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let mut item = f.insert(Item::ranked("a", "old", 1)).await.unwrap();
    (item.group, item.rank) = ("new".to_owned(), None);
    item.mixed = Some(Mixed::Number(3));
    f.update(&mut item).await.unwrap();
    assert!(ids(&f, Items::new().equal("group", "old")).await.is_empty());
    assert!(ids(&f, Items::new().order_by("rank")).await.is_empty());
    assert_eq!(ids(&f, Items::new().equal("group", "new")).await, ["a"]);
    assert_eq!(ids(&f, Items::new().equal("mixed", 3_i64)).await, ["a"]);
    item.mixed = Some(Mixed::Word("3".to_owned()));
    f.update(&mut item).await.unwrap();
    assert!(ids(&f, Items::new().equal("mixed", 3_i64)).await.is_empty());
    assert_eq!(ids(&f, Items::new().equal("mixed", "3")).await, ["a"]);
}

/// Only declared fields can be asked for.
pub async fn an_undeclared_field_is_refused(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    for query in [
        Items::new().equal("note", "x"),
        Items::new().order_by("id"),
        Items::new().at_least("group' OR 1=1 --", 1_i64),
        Items::new().at_most("", 1_i64),
    ] {
        assert_code(f.list(query).await, "field_not_indexed");
    }
}

/// Several hundred queries of every shape answer as a plain filter and sort would.
pub async fn any_query_answers_like_the_model(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    let mut items = Vec::new();
    for n in 0..120 {
        let mut item = Item::new(&format!("{:02}{n}", random.below(100)), ["x", "y", "z"][random.below(3)]);
        item.rank = (random.below(4) > 0).then(|| random.small());
        item.mixed = match random.below(3) {
            0 => None,
            1 => Some(Mixed::Number(random.small())),
            _ => Some(Mixed::Word(random.small().to_string())),
        };
        items.push(item);
    }
    fill(&f, items.clone()).await;
    for _ in 0..400 {
        let query = random.query();
        let mut raw = query.clone();
        let mut found = Vec::new();
        loop {
            let page = f.query(&raw).await.unwrap();
            found.extend(page.records.into_iter().map(|record| record.id));
            match page.next {
                Some(next) => raw.after = Some(next),
                None => break,
            }
        }
        assert_eq!(found, model(&items, &query), "{query:?}");
    }
}

fn model(items: &[Item], query: &Query) -> Vec<String> {
    let value =
        |item: &Item, field: &str| item.index().iter().find(|(name, _)| *name == field).map(|(_, value)| value.clone());
    let same = |a: &IndexValue, b: &IndexValue| matches!(a, IndexValue::Int(_)) == matches!(b, IndexValue::Int(_));
    let mut found: Vec<_> = items
        .iter()
        .filter(|item| {
            query.filters.iter().all(|filter| {
                value(item, filter.field()).is_some_and(|value| match filter {
                    Filter::Equal(_, wanted) => value == *wanted,
                    Filter::AtLeast(_, least) => same(&value, least) && value >= *least,
                    Filter::AtMost(_, most) => same(&value, most) && value <= *most,
                })
            })
        })
        .filter_map(|item| match query.order_by {
            Some(field) => value(item, field).map(|value| (Some(value), item.id.clone())),
            None => Some((None, item.id.clone())),
        })
        .collect();
    found.sort();
    if query.descending {
        found.reverse();
    }
    found.into_iter().map(|(_, id)| id).collect()
}

/// A small generator, so that every store sees the same cases.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn small(&mut self) -> i64 {
        self.below(7) as i64 - 3
    }

    fn value(&mut self) -> IndexValue {
        if self.below(2) == 0 { self.small().into() } else { self.small().to_string().into() }
    }

    fn query(&mut self) -> Query {
        let mut query = Items::new().limit(1 + self.below(30));
        for _ in 0..self.below(4) {
            let field = ["rank", "mixed"][self.below(2)];
            query = match self.below(5) {
                0 | 1 => query.equal("group", ["x", "y", "z", "absent"][self.below(4)]),
                2 => query.at_least(field, self.value()),
                3 => query.at_most(field, self.value()),
                _ => query.equal(field, self.value()),
            };
        }
        if let Some(field) = [None, Some("group"), Some("rank"), Some("mixed")][self.below(4)] {
            query = query.order_by(field);
        }
        if self.below(2) == 0 {
            query = query.descending();
        }
        query.into_raw().unwrap()
    }
}
