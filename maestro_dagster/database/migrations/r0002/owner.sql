-- All keys that the project of this database has signed with, as their hints: two projects may have one name.
CREATE TABLE owner_key (hint text COLLATE "C" PRIMARY KEY);
