//! What a server told of a database's own objects, and which of them reach something that no standby may run.
//!
//! A graph by object ids: a view reaches the functions in it, a function its default arguments, a table its policies. What is
//! known to be unsafe makes unsafe whatever reaches it. Bodies of functions that are texts join by names, in
//! [`super::body`]. Knows neither how a server is asked nor what a statement looks like.

use super::super::builtins;
use super::{Declared, Verdict};
use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};
use std::hash::BuildHasher;

/// The first object id that is not made by initdb (`FirstNormalObjectId`).
const FIRST_OWN: u32 = 16_384;

/// Something that an expression can reach, by its object id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Object {
    /// A row of `pg_proc`.
    Function(u32),
    /// A row of `pg_operator`.
    Operator(u32),
    /// Values of a type, wherever they come from.
    Type(u32),
    /// A type where it is written: casts to it, checks of a domain.
    TypeName(u32),
    /// A table, view, sequence …
    Relation(u32),
    /// What a standby refuses or answers differently.
    Refused,
}

/// A function, built in or not.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Function {
    /// Its row of `pg_proc`.
    pub oid: u32,
    /// As the catalogue spells it.
    pub schema: Box<[u8]>,
    /// As the catalogue spells it.
    pub name: Box<[u8]>,
    /// `provolatile` is `v`.
    pub volatile: bool,
    /// How it can be called.
    pub call: Call,
    /// What is known of what it does.
    pub body: Body,
}

/// How a statement can call a function.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Call {
    /// Not by itself: it takes or returns what no statement can write.
    Never,
    /// By its name.
    Name,
    /// Also as `t.f`: its one argument may be a row.
    Attribute,
}

/// What is known of what a function does.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Body {
    /// Its declaration, and the objects that it reaches.
    Declared,
    /// SQL that is parsed when it is called.
    Sql(Box<[u8]>),
    /// PL/pgSQL.
    Procedural(Box<[u8]>),
    /// A text that was too long to be sent.
    Unseen,
}

/// An operator.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Operator {
    /// Its row of `pg_operator`.
    pub oid: u32,
    /// Its spelling.
    pub name: Box<[u8]>,
    /// PostgreSQL itself has an operator of this spelling.
    pub builtin_spelling: bool,
    /// What it runs.
    pub function: u32,
    /// Its operands; 0 for none.
    pub operands: [u32; 2],
}

/// A cast that calls a function.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Cast {
    /// What it runs.
    pub function: u32,
    /// From this type.
    pub source: u32,
    /// To this type.
    pub target: u32,
    /// Only where it is written (`castcontext` is `e`).
    pub explicit: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Named {
    pub(super) object: Object,
    pub(super) schema: Box<[u8]>,
    pub(super) name: Box<[u8]>,
}

/// See the module. Made empty, then told everything.
#[derive(Debug)]
pub struct Survey {
    pub(super) version: u16,
    pub(super) utf8: bool,
    pub(super) complete: bool,
    pub(super) digest: u64,
    pub(super) functions: Vec<Function>,
    pub(super) named: Vec<Named>,
    /// Operators that are known by their spelling.
    pub(super) operators: Vec<Operator>,
    /// Casts between built-in types.
    pub(super) casts: Vec<Cast>,
    /// Object → what reaches it at once.
    reached_by: HashMap<Object, Vec<Object>>,
}

impl Survey {
    /// Of a database whose server has this major version; it holds nothing yet.
    pub fn new(server_version: u16) -> Self {
        Self {
            version: server_version.max(builtins::OLDEST_VERSION),
            utf8: true,
            complete: true,
            digest: 0,
            functions: Vec::new(),
            named: Vec::new(),
            operators: Vec::new(),
            casts: Vec::new(),
            reached_by: HashMap::new(),
        }
    }

    /// A number that is another one after nearly every change, whatever the order in which a server tells things.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Something was left out: nothing that is not mentioned may be believed.
    pub fn cut(&mut self) {
        self.complete = false;
    }

    /// The encoding of the database is not UTF-8.
    pub fn other_encoding(&mut self) {
        self.utf8 = false;
    }

    /// A function of the user's, or one that is built in (id below 16384) and not immutable.
    pub fn function(&mut self, function: Function) {
        self.sum(&function);
        self.functions.push(function);
    }

    /// An operator of the user's.
    pub fn operator(&mut self, operator: Operator) {
        self.sum(&operator);
        let object = Object::Operator(operator.oid);
        self.reaches(object, Object::Function(operator.function));
        // `=` of one type must not condemn every `=`: what has values of that type is unsafe instead, which also covers
        // what is compared without an operator in sight.
        let own = operator.operands.into_iter().filter(|oid| is_own(*oid));
        let own: Vec<u32> = own.filter(|_| operator.builtin_spelling).collect();
        for operand in &own {
            self.reaches(Object::Type(*operand), object);
        }
        if own.is_empty() {
            self.operators.push(operator);
        }
    }

    /// A cast that calls a function.
    pub fn cast(&mut self, cast: Cast) {
        self.sum(&cast);
        let function = Object::Function(cast.function);
        if cast.explicit && is_own(cast.target) {
            return self.reaches(Object::TypeName(cast.target), function);
        }
        let own = [cast.source, cast.target].map(|oid| is_own(oid).then_some(oid));
        for oid in own.into_iter().flatten() {
            self.reaches(Object::Type(oid), function);
        }
        if own == [None, None] {
            self.casts.push(cast);
        }
    }

    /// The name of a type of the user's.
    pub fn type_name(&mut self, oid: u32, schema: &[u8], name: &[u8]) {
        self.reaches(Object::TypeName(oid), Object::Type(oid));
        self.name(Object::TypeName(oid), schema, name);
    }

    /// The name of a relation.
    pub fn relation(&mut self, oid: u32, schema: &[u8], name: &[u8]) {
        let object = Object::Relation(oid);
        if is_own(oid) {
            self.name(object, schema, name);
        } else if builtins::is_server_local_relation(name) {
            self.reaches(object, Object::Refused);
        }
    }

    /// Whoever uses `object` uses `reached`.
    pub fn reaches(&mut self, object: Object, reached: Object) {
        self.sum(&(object, reached));
        self.reached_by.entry(reached).or_default().push(object);
    }

    /// `schema.name` of a function, for people.
    pub(super) fn name_of(&self, function: u32) -> String {
        let found = self.functions.iter().find(|f| f.oid == function);
        found.map_or_else(String::new, |function| {
            let (schema, name) = (&function.schema, &function.name);
            format!("{}.{}", schema.escape_ascii(), name.escape_ascii())
        })
    }

    fn name(&mut self, object: Object, schema: &[u8], name: &[u8]) {
        let named = Named {
            object,
            schema: schema.into(),
            name: name.into(),
        };
        self.sum(&named);
        self.named.push(named);
    }

    fn sum(&mut self, told: &impl std::hash::Hash) {
        let hash = FixedState::default().hash_one(told);
        self.digest = self.digest.wrapping_add(hash);
    }

    /// What the operator of the system says of a function, or else its declaration.
    pub(super) fn verdict(&self, function: &Function, declared: Declared<'_>) -> Verdict {
        let said = declared.verdict(&function.schema, &function.name);
        said.unwrap_or_else(|| {
            let volatile = if is_own(function.oid) {
                function.volatile || function.body == Body::Unseen
            } else {
                builtins::is_unsafe(&function.name, function.volatile, self.version)
            };
            if volatile {
                Verdict::Volatile
            } else {
                Verdict::Safe
            }
        })
    }
}

impl Function {
    /// Made by initdb?
    pub(super) fn is_builtin(&self) -> bool {
        !is_own(self.oid)
    }
}

fn is_own(oid: u32) -> bool {
    oid >= FIRST_OWN
}

/// The objects that are unsafe, and all that reach them.
pub(super) struct Unsafe<'s> {
    survey: &'s Survey,
    found: HashSet<Object>,
    exempt: HashSet<Object>,
}

impl<'s> Unsafe<'s> {
    pub(super) fn new(survey: &'s Survey, declared: Declared<'_>) -> Self {
        let mut objects = Self {
            survey,
            found: HashSet::new(),
            exempt: HashSet::new(),
        };
        let mut roots = vec![Object::Refused];
        for function in &survey.functions {
            let object = Object::Function(function.oid);
            match survey.verdict(function, declared) {
                Verdict::Volatile => roots.push(object),
                Verdict::Exempt => drop(objects.exempt.insert(object)),
                Verdict::Safe => {}
            }
        }
        objects.add(roots);
        objects
    }

    /// Adds objects and all that reach them, save what is exempt.
    pub(super) fn add(&mut self, mut objects: Vec<Object>) {
        while let Some(object) = objects.pop() {
            if !self.exempt.contains(&object) && self.found.insert(object) {
                let reached_by = self.survey.reached_by.get(&object);
                objects.extend(reached_by.into_iter().flatten());
            }
        }
    }

    pub(super) fn contains(&self, object: Object) -> bool {
        self.found.contains(&object)
    }

    pub(super) fn is_exempt(&self, object: Object) -> bool {
        self.exempt.contains(&object)
    }
}
