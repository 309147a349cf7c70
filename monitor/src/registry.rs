//! The port numbers that IANA has registered.
//!
//! The table is text within the binary and is read line by line: nobody asks so often that an index would
//! pay. Where it comes from and who may use it stands in its first lines.

/// A name that IANA has registered for a port, or keeps back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Registration {
    /// The number.
    pub port: u16,
    /// `tcp`, `udp`, `sctp`, `dccp`, with `/` between them.
    transports: &'static str,
    /// The name; `None` where the number is reserved, and given to nobody.
    pub name: Option<&'static str>,
    /// What the registrant says it is for.
    pub description: &'static str,
    /// Year and month: `2002-05`.
    pub registered: Option<&'static str>,
    /// Who asked for it.
    pub registrant: Option<&'static str>,
    /// Where it is specified: `RFC 4251`.
    pub rfc: Option<&'static str>,
    /// IANA knows of others that use the number.
    pub is_misused: bool,
}

impl Registration {
    /// The transports it is registered for.
    pub fn transports(&self) -> impl Iterator<Item = &'static str> {
        self.transports.split('/')
    }
}

/// What is registered for a port: often several names, mostly one, for most numbers none.
pub fn of(port: u16) -> Vec<Registration> {
    all().skip_while(|it| it.port < port).take_while(|it| it.port == port).collect()
}

/// The nearest ports before and after this one that have a name.
pub fn neighbours(port: u16) -> (Option<Registration>, Option<Registration>) {
    let named = || all().filter(|it| it.name.is_some());
    let before = named().take_while(|it| it.port < port).last();
    // Of several names of a port the first, in both directions.
    let before = before.and_then(|last| named().find(|it| it.port == last.port));
    (before, named().find(|it| it.port > port))
}

/// The whole table, by port.
fn all() -> impl Iterator<Item = Registration> {
    TABLE.lines().filter_map(parse)
}

fn parse(line: &'static str) -> Option<Registration> {
    let mut columns = line.split('\t');
    let port = columns.next()?.parse().ok()?;
    let transports = columns.next()?;
    let mut text = || columns.next().filter(|text| !text.is_empty());
    Some(Registration {
        port,
        transports,
        name: text(),
        description: text().unwrap_or_default(),
        registered: text(),
        registrant: text(),
        rfc: text(),
        is_misused: text().is_some(),
    })
}

const TABLE: &str = include_str!("../data/port-registry.tsv");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smartcard_port_was_registered_in_may_2002_without_an_rfc() {
        let [registration] = of(3516)[..] else { panic!("one name") };

        assert_eq!(registration.name, Some("smartcard-port"));
        assert_eq!(registration.description, "Smartcard Port");
        assert_eq!(registration.transports().collect::<Vec<_>>(), ["tcp", "udp"]);
        assert_eq!(registration.registered, Some("2002-05"));
        assert_eq!(registration.registrant, Some("Scott Guthery"));
        assert_eq!((registration.rfc, registration.is_misused), (None, false));
    }

    #[test]
    fn a_port_may_have_several_names_none_or_be_reserved() {
        let names = |port| of(port).iter().map(|it| it.name).collect::<Vec<_>>();

        assert_eq!(names(80)[..2], [Some("http"), Some("www")]);
        assert_eq!(names(51820), []);
        assert_eq!(names(0), [None]);
    }

    #[test]
    fn neighbours_are_the_nearest_that_have_a_name() {
        let names = |(before, after): (Option<Registration>, Option<Registration>)| {
            (before.and_then(|it| it.name), after.and_then(|it| it.name))
        };

        assert_eq!(names(neighbours(3516)), (Some("must-backplane"), Some("802-11-iapp")));
        assert_eq!(names(neighbours(0)), (None, Some("tcpmux")));
        assert!(neighbours(65535).1.is_none());
    }

    #[test]
    fn every_line_is_read_and_they_are_in_order() {
        let lines = TABLE.lines().filter(|line| !line.starts_with('#')).count();
        let ports: Vec<u16> = all().map(|it| it.port).collect();

        assert_eq!(ports.len(), lines);
        assert!(ports.is_sorted());
        assert!(all().all(|it| it.name.is_some() || !it.description.is_empty()));
        let known = ["tcp", "udp", "sctp", "dccp"];
        assert!(all().all(|it| it.transports().all(|transport| known.contains(&transport))));
    }
}
