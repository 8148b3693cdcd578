# Random transactions over random tables, and an independent log as the judge: capture.pl [SECONDS [SEED]], or SECONDS and SEED in the environment.
#
# A round has a database of its own with a few tables of random columns, captured and with plain triggers that log each row they see.  One session or several
# at once write in every way there is, within savepoints, in transactions that are prepared, rolled back, serializable, with buffers that are too small, with
# DDL in between.  Then the decoded outbox must equal the log: per row, each change once, none of what was rolled back; each row's changes in their order; and
# read models of the tables their queries.  Errors are part of the game as long as they are the application's.
# Round N of a run has the seed SEED + N, so `capture.pl 1 SEED` repeats one; exactly, if it had one session.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use constant {
	TRANSACTIONS => 40,
	SHOWN => 12
};

# SQLSTATEs of errors that random statements may well meet.
my %expected = map { $_ => 1 } qw(
  21000 22P02 23502 23503 23505 23514 25001 25006 25P01 25P02 27000 2BP01 2D000 34000 3B001 40001 40P01 42701 42703 42704 42710 42804 42809 42P01 42P07 42P16 42P17 55000 55006 55P03
  0A000 428C9 22003 P0001 42611 24000 22001 22023);

my $seconds = $ARGV[0] // $ENV{SECONDS} // 30;
my $seed = $ARGV[1] // $ENV{SEED} // int(rand(1_000_000_000));
my %seen = map { $_ => 0 } qw(rounds transactions statements errors changes);
my %errors;
my $node = new_server('capture', 'cqrs.max_workers = 0', 'fsync = off', 'autovacuum = off', 'jit = off', 'deadlock_timeout = 20ms', 'cqrs.lock_timeout = 500ms',
	'statement_timeout = 60s', 'log_min_messages = log');

# ---- chance

sub chance { return rand() < $_[0] }
sub pick { return $_[int(rand(@_))] }

sub shuffle
{
	my @list = @_;
	my @result;

	push @result, splice(@list, int(rand(@list)), 1) while @list;
	return @result;
}

# ---- values

# Text of all lengths, compressible and not.
sub text
{
	my $luck = rand();

	return pick("''", "'a'", "'ab'", "'line'") if $luck < 0.5;
	return sprintf('fuzz.noise(%d, %d)', 1 + rand(200), rand(9)) if $luck < 0.75;
	return sprintf("repeat('%s', %d)", pick('x', 'abc', '0123456789'), 1 + rand(2500)) if $luck < 0.85;
	return sprintf('fuzz.noise(%d, %d)', 2000 + rand(18000), rand(9)) if $luck < 0.95;
	return sprintf("repeat('%s', %d)", pick('y', 'xyz'), 20000);
}

# Types of columns, each with what makes a value of it.
my %types = (
	integer => sub { int(rand(100)) - 50 },
	smallint => sub { int(rand(9)) },
	bigint => sub { pick(1, 9007199254740993, -5) },
	numeric => sub { pick(qw(0 1.0 1.00 2.5 12345678901234567890.123 'NaN' 'Infinity')) },
	'numeric(10,2)' => sub { sprintf('%.2f', rand(100)) },
	text => \&text,
	'varchar(30)' => sub { 'fuzz.noise(' . int(rand(30)) . ', 3)' },
	'char(5)' => sub { pick("'ab'", "''", "'abcde'") },
	'"char"' => sub { pick("'a'", "'b'") },
	name => sub { pick("'a name'", "'x'") },
	bytea => sub { chance(0.2) ? "decode(fuzz.noise(10000, 5), 'hex')" : pick(q{'\x'}, q{'\x00ff'}) },
	jsonb => sub { pick(q{'{"a": [1, null]}'}, q{'1'}, 'jsonb_build_object(' . "'t', " . text() . ')') },
	json => sub { pick(q{'{"a" : 1}'}, q{'[ ]'}) },
	'integer[]' => sub { pick("'{1,NULL,3}'", "'{}'", "'[2:3]={4,5}'", 'array_fill(7, ARRAY[3000])') },
	'text[]' => sub { 'ARRAY[' . text() . ', NULL]' },
	'fuzz.pair' => sub { 'ROW(' . int(rand(5)) . ', ' . text() . ')::fuzz.pair' },
	'fuzz.pair[]' => sub { q{ARRAY[ROW(1, 'q"')::fuzz.pair, NULL]} },
	'fuzz.mood' => sub { pick("'sad'", "'so so'", "'glad'") },
	'fuzz.positive' => sub { 1 + int(rand(9)) },
	'fuzz.line' => \&text,
	'fuzz.span' => sub { pick("'[1,2.5)'", "'empty'", "'(,0]'") },
	int4range => sub { pick("'[1,5)'", "'empty'") },
	int4multirange => sub { pick("'{[1,5),[7,9)}'", "'{}'") },
	tstzrange => sub { "'[2026-01-01,2026-02-03 04:05:06.789)'" },
	timestamptz => sub { pick("'2026-02-03 04:05:06.789+01'", "'infinity'", "'0044-03-15 12:00:00 BC'") },
	date => sub { pick("'2026-02-03'", "'-infinity'") },
	interval => sub { pick("'1 mon 2 days'", "'-00:00:01'") },
	uuid => sub { sprintf("'00000000-0000-0000-0000-%012d'", rand(10)) },
	boolean => sub { pick(qw(true false)) },
	float8 => sub { pick("'NaN'", "'-0'", '0', '1.1', '1e300') },
	float4 => sub { pick('0.1', '3') },
	inet => sub { pick("'10.0.0.1/8'", "'::1'") },
	varbit => sub { pick("B'10101'", "B''") },
	point => sub { "'(1,2)'" },
	xml => sub { pick("'<a/>'", "'<b>text</b>'") },
	tsvector => sub { "to_tsvector('simple', 'a fat cat ' || " . text() . ')' },
	pg_lsn => sub { "'16/B374D848'" });

# A value for a column, or NULL.
sub value
{
	my ($column) = @_;

	return 'NULL' if chance(0.12);
	return $types{ $column->{type} }->();
}

# ---- tables

# What can be a source is asked of the server, once: partitioned tables and parents.
my %can;

# The text of a column's definition.
sub definition
{
	my ($column) = @_;

	return "$column->{name} $column->{type}" . ($column->{extra} // '');
}

# A table: its columns, and whether its rows have a key and numbers of their versions.
sub make_table
{
	my ($name) = @_;
	my %table = (name => $name, kind => 'plain', key => chance(0.6), stamped => chance(0.7), triggers => [], leaves => []);
	my @names = map { "c$_" } 0 .. int(rand(7));

	$table{kind} = 'partitioned' if $can{partitioned} && chance(0.3);
	$table{kind} = 'parent' if $can{parent} && $table{kind} eq 'plain' && chance(0.25);
	$table{core} = [ map { { name => $_, type => pick(sort keys %types) } } @names ];
	my @columns = ({ name => 'id', type => 'integer', extra => ' NOT NULL' }, { name => 'part', type => 'integer', extra => ' NOT NULL' }, @{ $table{core} });
	push @columns, { name => 'stamp', type => 'bigint' }, { name => 'again', type => 'integer' } if $table{stamped};
	push @columns, { name => 'made', type => 'integer', extra => ' GENERATED ALWAYS AS (id * 2 + part) STORED' } if chance(0.3);
	push @columns, { name => 'ident', type => 'integer', extra => ' GENERATED BY DEFAULT AS IDENTITY' } if $table{kind} eq 'plain' && chance(0.2);
	push @columns, { name => 'gone', type => 'text' } if $table{kind} ne 'partitioned' && chance(0.3);
	$table{columns} = [ shuffle(@columns) ];
	return \%table;
}

# A leaf's or child's table whose columns lie in another order, one dropped among them.
sub other_order
{
	my ($table, $name) = @_;
	my @columns = shuffle({ name => 'junk', type => 'text' }, @{ $table->{columns} });

	return ("CREATE TABLE $name (" . join(', ', map { definition($_) } @columns) . ')', "ALTER TABLE $name DROP COLUMN junk");
}

# The leaves of a partitioned table.
sub partitions
{
	my ($table) = @_;
	my $name = $table->{name};

	$table->{leaves} = [ "${name}_0", "${name}_1", "${name}_2a", "${name}_2b", "${name}_rest" ];
	return ("CREATE TABLE ${name}_0 PARTITION OF $name FOR VALUES IN (0)",
		other_order($table, "${name}_1"), "ALTER TABLE $name ATTACH PARTITION ${name}_1 FOR VALUES IN (1)",
		"CREATE TABLE ${name}_2 PARTITION OF $name FOR VALUES IN (2) PARTITION BY RANGE (id)",
		"CREATE TABLE ${name}_2a PARTITION OF ${name}_2 FOR VALUES FROM (MINVALUE) TO (5)",
		other_order($table, "${name}_2b"), "ALTER TABLE ${name}_2 ATTACH PARTITION ${name}_2b FOR VALUES FROM (5) TO (MAXVALUE)",
		"CREATE TABLE ${name}_rest PARTITION OF $name DEFAULT");
}

# The children of a parent: they have a column more, or their columns in another order.
sub children
{
	my ($table) = @_;
	my $name = $table->{name};

	$table->{leaves} = [ $name, "${name}_child", "${name}_grandchild" ];
	return ("CREATE TABLE ${name}_child (more text DEFAULT 'more') INHERITS ($name)",
		other_order($table, "${name}_grandchild"), "ALTER TABLE ${name}_grandchild ADD COLUMN more text",
		"ALTER TABLE ${name}_grandchild INHERIT ${name}_child");
}

# The trigger of a table, under a random name: it may fire before ours or after.
sub trigger
{
	my ($table, $on, $what) = @_;
	my $name = pick('a', 'z') . '_' . (++$table->{made});

	return ("CREATE " . ($what =~ /DEFERRABLE/ ? 'CONSTRAINT ' : '') . "TRIGGER $name $what");
}

# Triggers that log, and those that write.
sub triggers
{
	my ($table, $others) = @_;
	my $name = $table->{name};
	my $moves = $table->{kind} eq 'partitioned';
	my @stamped = grep { $_->{stamped} } @$others;
	my @result;

	foreach my $leaf (@{ $table->{leaves} })
	{
		push @result, trigger($table, $leaf, "AFTER INSERT OR UPDATE OR DELETE ON $leaf FOR EACH ROW EXECUTE FUNCTION fuzz.log_change('$name'" . ($leaf eq $name ? '' : q{, 'child'}) . ')') unless $moves;
		push @result, trigger($table, $leaf, "AFTER TRUNCATE ON $leaf EXECUTE FUNCTION fuzz.log_change('$name')");
		push @result, "CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON $leaf FOR EACH ROW EXECUTE FUNCTION fuzz.stamp()" if $table->{stamped} && !$moves;
	}
	push @result, trigger($table, $name, "AFTER INSERT OR UPDATE OR DELETE ON $name FOR EACH ROW EXECUTE FUNCTION fuzz.log_change('$name')") if $moves;
	push @result, "CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON $name FOR EACH ROW EXECUTE FUNCTION fuzz.stamp()" if $table->{stamped} && $moves;
	push @result, trigger($table, $name, "AFTER INSERT OR UPDATE ON $name FOR EACH ROW EXECUTE FUNCTION fuzz.again()") if $table->{stamped} && chance(0.4);
	push @result, trigger($table, $name, "AFTER INSERT OR UPDATE ON $name DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fuzz.again()")
	  if $table->{stamped} && chance(0.25);
	push @result, trigger($table, $name, "AFTER INSERT OR DELETE ON $name FOR EACH ROW EXECUTE FUNCTION fuzz.other('" . pick(@stamped)->{name} . q{')})
	  if @stamped && chance(0.4);
	return @result;
}

# The statements that make a table.
sub create_table
{
	my ($table, @before) = @_;
	my $name = $table->{name};
	my @columns = map { definition($_) } @{ $table->{columns} };
	my @parents = grep { $_->{key} && $_->{kind} eq 'plain' } @before;
	my @result;

	push @columns, 'PRIMARY KEY (id' . ($table->{kind} eq 'partitioned' ? ', part' : '') . ')'
	  . ($table->{kind} eq 'plain' && !($table->{target} = chance(0.8)) ? ' DEFERRABLE INITIALLY ' . pick('IMMEDIATE', 'DEFERRED') : '') if $table->{key};
	if (chance(0.3) && (@parents = grep { $_->{target} } @parents))
	{
		push @{ $table->{columns} }, { name => 'up', type => 'integer' };
		push @columns, 'up integer DEFAULT floor(random() * 8) REFERENCES ' . pick(@parents)->{name} . ' ON UPDATE CASCADE ON DELETE ' . pick('CASCADE', 'SET NULL')
		  . pick('', ' DEFERRABLE INITIALLY DEFERRED');
	}
	push @result, "CREATE TABLE $name (" . join(', ', @columns) . ')' . ($table->{kind} eq 'partitioned' ? ' PARTITION BY LIST (part)' : '');
	$table->{leaves} = [$name];
	push @result, partitions($table) if $table->{kind} eq 'partitioned';
	push @result, children($table) if $table->{kind} eq 'parent';
	push @result, "ALTER TABLE $name DROP COLUMN gone" if $result[0] =~ /gone text/;
	push @result, map { "ALTER TABLE $name ALTER COLUMN $_->{name} SET STORAGE " . pick('EXTERNAL', 'MAIN', 'EXTENDED') }
	  grep { $_->{type} =~ /^(?:text|bytea|jsonb|text\[\])$/ && chance(0.5) } @{ $table->{core} };
	push @result, triggers($table, \@before);
	push @result, "INSERT INTO fuzz.root VALUES ('$name', '$name'::regclass)";
	return @result;
}

# ---- statements

# The columns that an INSERT names: id, part, and some others.
sub named
{
	my ($table) = @_;

	return grep { chance(0.7) } @{ $table->{core} };
}

sub insert
{
	my ($table, $into) = @_;
	my @columns = named($table);
	my @rows = map { '(' . join(', ', int(rand(12)), int(rand(5)), map { value($_) } @columns) . ')' } 1 .. 1 + int(rand(3));

	return "INSERT INTO $into (" . join(', ', 'id', 'part', map { $_->{name} } @columns) . ') VALUES ' . join(', ', @rows);
}

# Many rows at once, with ids of their own.
sub bulk
{
	my ($table, $into) = @_;
	my @text = grep { $_->{type} eq 'text' } @{ $table->{core} };
	my $first = 100 + 20 * int(rand(10));
	my ($columns, $values) = @text ? (", $text[0]{name}", ', fuzz.noise(' . int(rand(400)) . ', i)') : ('', '');

	return "INSERT INTO $into (id, part$columns) SELECT i, i % 5$values FROM generate_series($first, " . ($first + int(rand(150))) . ') AS i';
}

# A condition that picks some rows.
sub some_rows
{
	my ($from) = @_;

	return pick('id = ' . int(rand(12)), 'id = ' . int(rand(12)), 'id < ' . int(rand(12)), 'id % 3 = ' . int(rand(3)), 'part = ' . int(rand(5)),
		"ctid = (SELECT min(ctid) FROM $from)", 'id >= 100', 'true');
}

# What an UPDATE sets.
sub assignments
{
	my ($table, $alias) = @_;
	my @core = @{ $table->{core} };
	my $luck = rand();

	return "id = ${alias}id + 1" if $luck < 0.06;
	return "id = 11 - ${alias}id" if $luck < 0.1;
	return 'part = ' . int(rand(5)) if $luck < 0.25;
	return join(', ', map { "$_->{name} = $alias$_->{name}" } @core[ 0 .. int(rand(@core)) ]) if $luck < 0.35;
	return join(', ', map { "$_->{name} = " . value($_) } (shuffle(@core))[ 0 .. int(rand(@core)) ]);
}

sub update
{
	my ($table, $into) = @_;

	return "UPDATE $into SET " . assignments($table, '') . ' WHERE ' . some_rows($into);
}

sub remove
{
	my ($table, $from) = @_;

	return "DELETE FROM $from WHERE " . some_rows($from);
}

sub conflict
{
	my ($table, $into) = @_;
	my $key = $table->{kind} eq 'partitioned' ? 'id, part' : 'id';

	return insert($table, $into) . ' ON CONFLICT ' . pick('DO NOTHING', map { "($key) DO UPDATE SET $_" } assignments($table, "$into."), 'part = excluded.part');
}

sub merge
{
	my ($table, $into) = @_;
	my $column = pick(@{ $table->{core} });
	my $value = value($column);

	return "MERGE INTO $into AS m USING (SELECT i AS id, i % 4 AS part FROM generate_series(" . int(rand(6)) . ', ' . int(rand(14))
	  . ") AS i) AS v ON m.id = v.id WHEN MATCHED AND v.id % 4 = 1 THEN DELETE WHEN MATCHED AND v.id % 4 = 2 THEN DO NOTHING "
	  . "WHEN MATCHED THEN UPDATE SET $column->{name} = $value, part = v.part WHEN NOT MATCHED THEN INSERT (id, part, $column->{name}) VALUES (v.id, v.part, $value)";
}

sub copy_in
{
	my ($table, $into) = @_;
	my $rows = join(' ', map { int(rand(12)) . ' ' . int(rand(5)) } 1 .. 1 + int(rand(4)));

	return qq{COPY $into (id, part) FROM PROGRAM 'printf "%d\\t%d\\n" $rows'};
}

# Several changes of several tables in one statement.
sub ctes
{
	my ($table, $into, $tables) = @_;
	my $other = pick(@$tables);

	return "WITH gone AS (DELETE FROM $into WHERE " . some_rows($into) . ' RETURNING id, part), ' . "changed AS (UPDATE $other->{name} SET "
	  . assignments($other, '') . ' WHERE id IN (SELECT id + 1 FROM gone) RETURNING id) '
	  . "INSERT INTO $other->{name} (id, part) SELECT id + 12, part FROM gone UNION ALL SELECT id + 30, 1 FROM changed";
}

# Where a statement goes to: the table, or now and then one of its leaves.
sub target
{
	my ($table) = @_;

	return chance(0.75) ? $table->{name} : pick(@{ $table->{leaves} });
}

# A statement that changes rows.
sub change
{
	my ($tables) = @_;
	my $table = pick(@$tables);
	my $into = target($table);
	my $luck = rand();

	return insert($table, $into) if $luck < 0.22;
	return update($table, $into) if $luck < 0.48;
	return remove($table, $into) if $luck < 0.6;
	return bulk($table, $into) if $luck < 0.66;
	return conflict($table, $table->{name}) if $luck < 0.76 && $table->{key} && $table->{target} // 1;
	return merge($table, $table->{name}) if $luck < 0.84;
	return ctes($table, $into, $tables) if $luck < 0.9;
	return copy_in($table, $into) if $luck < 0.95;
	return 'TRUNCATE ' . ($table->{kind} eq 'parent' ? pick('ONLY ', '') : '') . "$into CASCADE" if $luck < 0.96;
	return insert($table, $into);
}

# The statement that creates a read model.
sub create_model
{
	my ($model) = @_;

	return "SELECT cqrs.create_projection('$model->{name}', \$q\$$model->{query}\$q\$) \\g /dev/null";
}

# Partitions and children that leave and come back, with what was written to them meanwhile.
sub regroup
{
	my ($table) = @_;
	my $name = $table->{name};
	my ($leaf, $leave, $come) = $table->{kind} eq 'parent'
	  ? ("${name}_child", "ALTER TABLE ${name}_child NO INHERIT $name", "ALTER TABLE ${name}_child INHERIT $name")
	  : ("${name}_1", "ALTER TABLE $name DETACH PARTITION ${name}_1", "ALTER TABLE $name ATTACH PARTITION ${name}_1 FOR VALUES IN (1)");
	my @meanwhile = ("INSERT INTO $leaf (id, part) VALUES (" . int(rand(12)) . ', 1)', remove($table, $leaf), insert($table, $name));

	return pick([$leave], [$come], [ $leave, $come ], [ $leave, pick(@meanwhile), $come ], [ $leave, @meanwhile ], ["TRUNCATE $leaf"]);
}

# A trigger that comes or goes and changes rows before they are written; triggers switched off, ours among them, and on again.
sub meddle
{
	my ($round, $table) = @_;
	my $name = $table->{name};
	my $leaf = $table->{kind} eq 'plain' || chance(0.5) ? $name : pick(@{ $table->{leaves} });
	my $blind = !$table->{whole} && $round->{grows};

	return pick(["CREATE TRIGGER meddle BEFORE UPDATE ON $leaf FOR EACH ROW EXECUTE FUNCTION fuzz.meddle()"], ["DROP TRIGGER meddle ON $leaf"],
		["ALTER TABLE $leaf DISABLE TRIGGER meddle"], ["ALTER TABLE $leaf ENABLE ALWAYS TRIGGER meddle"],
		$blind ? ([ "ALTER TABLE $leaf DISABLE TRIGGER ALL", change([$table]), "ALTER TABLE $leaf ENABLE TRIGGER ALL" ], ["ALTER TABLE $leaf DISABLE TRIGGER USER"]) : ());
}

# Statements that belong together.
sub group
{
	my ($round) = @_;
	my $tables = $round->{tables};
	my $table = pick(@$tables);
	my $name = $table->{name};
	my $luck = rand();

	return change($tables) if $luck < 0.82;
	return "SELECT fuzz.shake('$name')" if $luck < 0.85;
	return "SELECT fuzz.emit('a" . int(rand(4)) . "', jsonb_build_object('text', " . text() . '))' if $luck < 0.855 + 0.02 * $round->{emits};
	return "SELECT fuzz.alter('$name')" if $luck < 0.885 && $round->{ddl};
	return @{ regroup($table) } if $luck < 0.895 && $round->{ddl} && $table->{kind} ne 'plain';
	return @{ meddle($round, $table) } if $luck < 0.9 && $round->{ddl} && $table->{stamped};
	return ("DECLARE c CURSOR FOR SELECT id FROM $name WHERE " . some_rows($name) . ' FOR UPDATE', 'FETCH 1 FROM c',
		"UPDATE $name SET " . assignments($table, '') . ' WHERE CURRENT OF c', 'FETCH 1 FROM c', "DELETE FROM $name WHERE CURRENT OF c", 'CLOSE c') if $luck < 0.92;
	return sprintf('DO $$BEGIN FOR turn IN 1 .. %d LOOP BEGIN %s; %s; IF turn %% %d = 0 THEN RAISE EXCEPTION \'undone\'; END IF; '
		  . 'EXCEPTION WHEN raise_exception OR integrity_constraint_violation THEN %s; END; END LOOP; END$$',
		1 + rand(5), change($tables), change($tables), 1 + rand(3), chance(0.5) ? 'NULL' : change($tables)) if $luck < 0.96;
	return 'SET CONSTRAINTS ALL ' . pick('IMMEDIATE', 'DEFERRED') if $luck < 0.97;
	return "SET LOCAL cqrs.buffer_size = '" . pick('8kB', '16kB', '256kB') . q{'} if $luck < 0.98 && $round->{tiny};
	return ("ALTER TABLE $name RENAME TO renamed", insert($table, 'renamed'), "ALTER TABLE renamed RENAME TO $name") if $luck < 0.99 && $round->{ddl};
	return ("ALTER TABLE $name SET SCHEMA elsewhere", insert($table, $name), "ALTER TABLE elsewhere.$name SET SCHEMA app") if $round->{ddl};
	return change($tables);
}

# Statements, some of them within savepoints that are released, rolled back, or left open.
sub block
{
	my ($round, $depth) = @_;
	my @statements;

	foreach (1 .. 1 + int(rand(4)))
	{
		push @statements, group($round);
		next unless $depth < 5 && chance(0.35);
		my $name = "s$depth";
		my $end = pick(["RELEASE $name"], ["RELEASE $name"], ["ROLLBACK TO $name"], ["ROLLBACK TO $name", "RELEASE $name"], []);

		push @statements, "SAVEPOINT $name", block($round, $depth + 1), @$end;
	}
	return @statements;
}

# A read model that comes while others write, so that more of a source is watched and imaged, or one that goes.
sub late_model
{
	my ($round, $gid) = @_;
	my ($model) = models(pick(@{ $round->{tables} }));
	my @late = grep { $_->{late} } @{ $round->{models} };

	return "SELECT cqrs.drop_projection('" . pick(@late)->{name} . "') \\g /dev/null" if @late && chance(0.3);
	push @{ $round->{models} }, { name => "late_$gid", query => $model->{query}, late => 1 };
	return create_model($round->{models}[-1]), 'SELECT cqrs.drain() \g /dev/null';
}

# A transaction: its statements.
sub transaction
{
	my ($round, $gid) = @_;
	my $luck = rand();
	my $tables = $round->{tables};
	my $end;

	return (group($round)) if $luck < 0.1;
	return ('DO $$BEGIN ' . join(' ', map { change($tables) . '; ' . pick('COMMIT', 'ROLLBACK', 'COMMIT') . ';' } 1 .. 3) . ' END$$') if $luck < 0.13;
	return ('SELECT cqrs.drain() \g /dev/null') if $luck < 0.16 && $round->{read};
	return late_model($round, $gid) if $luck < 0.19 && $round->{grows} && chance(0.6);
	return ("SET cqrs.buffer_size = '" . pick('8kB', '64kB', '256kB') . q{'}) if $luck < 0.18 && $round->{tiny};
	if ($luck < 0.19)
	{
		return ('BEGIN', (map { ("SAVEPOINT d$_", group($round)) } 1 .. 70), 'ROLLBACK TO d' . (1 + int(rand(70))), pick('COMMIT', 'ROLLBACK'));
	}
	$end = pick(('COMMIT') x 8, 'ROLLBACK', 'ROLLBACK', "PREPARE TRANSACTION '$gid'");
	return ('BEGIN' . pick(('') x 12, ' ISOLATION LEVEL REPEATABLE READ', ' ISOLATION LEVEL SERIALIZABLE', ' READ ONLY'), block($round, 0), $end);
}

# A session: its transactions, some of them ends of those that others prepared.
sub session
{
	my ($round, $number) = @_;
	my $count = int(TRANSACTIONS / $round->{sessions});
	my @transactions;

	foreach my $at (1 .. $count)
	{
		push @transactions, [ transaction($round, "p${number}_$at") ];
		push @transactions, [ sprintf("%s PREPARED 'p%d_%d'", pick('COMMIT', 'COMMIT', 'ROLLBACK'), 1 + rand($round->{sessions}), 1 + rand($at)) ] if chance(0.15);
		my @prepared = map { map { /^PREPARE TRANSACTION '(.*)'/ ? $1 : () } @$_ } @transactions;
		push @transactions, [ pick('COMMIT', 'ROLLBACK') . " PREPARED '" . pick(@prepared) . q{'} ] if @prepared && chance(0.5);
	}
	return \@transactions;
}

# ---- rounds

# Read models of a table.
sub models
{
	my ($table) = @_;
	my $name = $table->{name};
	my $column = pick(@{ $table->{core} })->{name};
	my @queries = ("SELECT part, count(*) AS n, count($column) AS filled FROM $name GROUP BY part", "SELECT left($column\::text, 200) AS value, count(*) AS n FROM $name GROUP BY 1",
		"SELECT id, array_agg(part ORDER BY part) AS parts, min(length($column\::text)) AS shortest FROM $name GROUP BY id");

	push @queries, ("SELECT part, count(*) AS n, sum(again) AS again FROM $name GROUP BY part") x 2 if $table->{stamped};
	push @queries, ("SELECT made, count(*) AS n FROM $name GROUP BY made") x 2 if grep { $_->{name} eq 'made' } @{ $table->{columns} };

	return map { { query => $_ } } (shuffle(@queries))[ 0 .. int(rand(2)) ];
}

# A round from its seed.
sub make_round
{
	my ($number) = @_;
	my %round = (number => $number, database => "round_$number", models => []);
	my @tables;

	srand($number);
	$round{sessions} = pick(1, 1, 2, 4);
	$round{ddl} = chance(0.6);
	$round{read} = chance(0.5);
	$round{goes_on} = chance(0.7);
	$round{tiny} = chance(0.5);
	$round{rotates} = chance(0.5);
	$round{emits} = chance(0.3);
	$round{worker} = $round{read} && chance(0.4);
	$round{grows} = $round{read} && chance(0.4);
	$round{setup} = [ 'CREATE SCHEMA app', 'CREATE SCHEMA elsewhere' ];
	foreach my $name (map { "t$_" } 0 .. 1 + int(rand(3)))
	{
		my $table = make_table($name);

		push @{ $round{setup} }, create_table($table, @tables);
		push @tables, $table;
	}
	$round{tables} = \@tables;
	$_->{whole} = !$round{read} || chance(0.5) foreach @tables;
	push @{ $round{setup} }, map { "SELECT cqrs.capture('$_->{name}') \\g /dev/null" } grep { $_->{whole} } @tables;
	push @{ $round{models} }, map { models($_) } grep { $round{read} } @tables;
	foreach my $at (0 .. $#{ $round{models} })
	{
		$round{models}[$at]{name} = "m$at";
		push @{ $round{setup} }, create_model($round{models}[$at]);
	}
	push @{ $round{setup} }, 'SELECT cqrs.drain() \g /dev/null' if $round{read};
	push @{ $round{setup} }, map { "UPDATE fuzz.root SET imaged = s.imaged, watched = s.watched FROM cqrs.sources AS s WHERE s.source = relation AND label = '$_->{name}'" }
	  grep { !$_->{whole} } @tables;
	push @{ $round{setup} }, map { "DELETE FROM fuzz.root WHERE label = '$_->{name}'" } grep { !$_->{whole} && $round{grows} } @tables;
	$round{scripts} = [ map { session(\%round, $_) } 1 .. $round{sessions} ];
	return \%round;
}

# The text of a session.
sub script
{
	my ($round, $number, $transactions) = @_;
	my @lines = ($round->{goes_on} ? '\set ON_ERROR_ROLLBACK on' : (), 'SET client_min_messages = error', 'SET search_path = app, elsewhere, public', "SET lock_timeout = '" . ($round->{sessions} > 1 ? 60 : 10) . "ms'",
		q{SET TimeZone = 'UTC'}, sprintf('SELECT setseed(%.3f) \g /dev/null', ($round->{number} + $number) % 997 / 1000), @$transactions);

	return join('', map { /^\\| \\g / ? "$_\n" : "$_;\n" } @lines);
}

# Runs scripts in psql, at once; returns what each said.
sub run
{
	my ($round, $stop, @scripts) = @_;
	my @runs;

	foreach my $number (0 .. $#scripts)
	{
		my %run = (input => script($round, $number, $scripts[$number]), output => '', errors => '');

		$run{handle} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-v', "ON_ERROR_STOP=$stop", '-d', $node->connstr($round->{database}) ],
			'<', \$run{input}, '>', \$run{output}, '2>', \$run{errors}, IPC::Run::timeout(240));
		$seen{statements} += @{ $scripts[$number] };
		push @runs, \%run;
	}
	foreach my $run (@runs)
	{
		eval { IPC::Run::finish($run->{handle}) };
		$run->{errors} .= "terminated: $@" if $@;
	}
	return map { { output => $_->{output}, errors => $_->{errors} } } @runs;
}

# The errors of sessions that no application should see.
sub wrong_errors
{
	my (@runs) = @_;
	my @wrong;

	foreach my $run (@runs)
	{
		foreach my $line (split(/\n/, $run->{errors}))
		{
			push @wrong, $line if $line =~ /server closed|terminated/ && $line !~ /^(?:LOCATION|DETAIL|HINT)/;
			next unless $line =~ /(?:ERROR|FATAL|PANIC|WARNING):  (\w{5}):/;
			$seen{errors}++;
			$errors{$1}++;
			push @wrong, $line unless $expected{$1};
		}
	}
	return @wrong;
}

# Follows the numbers of row versions through the outbox, in its order: which live, of which tables that cannot be told, what is wrong with it.
sub wrong_order
{
	my ($round, $rows) = @_;
	my (%live, %lost_track, @wrong);

	foreach my $row (split(/\n/, $rows))
	{
		my ($position, $label, $kind, $old, $new) = split(/\|/, $row, -1);

		$lost_track{$label} = 1 if $kind eq 'alter' || $kind eq 'truncate' && $round->{trees}{$label};
		$live{$label} = {} if $kind eq 'truncate';
		next if $lost_track{$label};
		push @wrong, "$position: $kind of a row of $label that is not there: $old" if $old ne '' && !delete $live{$label}{$old};
		$live{$label}{$new} = 1 if $new ne '';
	}
	return (\%live, \%lost_track, @wrong);
}

# Compares: returns what is wrong.
sub judge
{
	my ($round) = @_;
	my @wrong = eval { differences_found($round) };

	return $@ ? substr($@, 0, 500) : @wrong;
}

# What is wrong with outbox and read models.
sub differences_found
{
	my ($round) = @_;
	my $ask = sub
	{
		my ($status, $output, $errors) = $node->psql($round->{database}, "SET TimeZone = 'UTC'; SET search_path = app, elsewhere, public; $_[0]");

		die "$_[0]: $errors\n" if $errors;
		return $output;
	};
	my @stamped = grep { $_->{stamped} && $_->{whole} } @{ $round->{tables} };
	my $labels = join(', ', map { $_->{name} } @stamped);
	my @wrong = split(/\n/, $ask->('SELECT what, xid, label, kind, fuzz.brief(old_row), fuzz.brief(new_row) FROM fuzz.difference ORDER BY xid LIMIT ' . SHOWN));

	push @wrong, split(/\n/, $ask->('SELECT what, xid, aggregate, version, left(payload::text, 50) FROM fuzz.event_difference ORDER BY xid LIMIT ' . SHOWN));
	$round->{trees} = { map { $_->{name} => 1 } grep { $_->{kind} ne 'plain' } @stamped };
	my ($live, $lost_track, @order) = wrong_order($round, $ask->(qq{SELECT position, label, kind, old_row ->> 'stamp', new_row ->> 'stamp'
		FROM cqrs.outbox JOIN fuzz.root ON relation = source::oid WHERE label = ANY ('{$labels}')
		ORDER BY max(position) OVER (PARTITION BY xid), command, position}));
	push @wrong, @order[ 0 .. ($#order < SHOWN ? $#order : SHOWN) ];
	foreach my $table (grep { !$lost_track->{ $_->{name} } } @stamped)
	{
		my $there = $ask->("SELECT stamp FROM $table->{name} ORDER BY 1");
		my $ours = join("\n", sort { $a <=> $b } keys %{ $live->{ $table->{name} } });

		push @wrong, "rows of $table->{name} are not those of the outbox" if $there ne $ours;
	}
	$seen{changes} += $ask->('SELECT count(*) FROM fuzz.log');
	foreach my $model (@{ $round->{models} })
	{
		next if $model->{late} && $ask->("SELECT to_regclass('$model->{name}') IS NULL") eq 't';
		eval { $round->{worker} ? caught_up($node, "app.$model->{name}", $round->{database}) || die "no worker caught up\n" : $ask->("SELECT cqrs.drain('$model->{name}')") };
		push @wrong, "$model->{name}: $@" if $@;
		push @wrong, "$model->{name} differs: $model->{query}" unless $@ || $ask->(qq{SELECT count(*)
			FROM ((TABLE $model->{name} EXCEPT ALL ($model->{query})) UNION ALL (($model->{query}) EXCEPT ALL TABLE $model->{name})) AS d}) eq '0';
	}
	return @wrong;
}

# One round, as one test.
sub test_round
{
	my ($number) = @_;
	my $round = make_round($number);
	my (@setup, @runs, @wrong);
	my @left;

	$node->safe_psql('postgres', "CREATE DATABASE $round->{database} TEMPLATE fuzz");
	$node->safe_psql('postgres', "ALTER DATABASE $round->{database} SET TimeZone = 'UTC'");
	$node->safe_psql('postgres', "ALTER DATABASE $round->{database} SET cqrs.segment_size = '64kB'") if $round->{rotates};
	$node->safe_psql('postgres', "ALTER DATABASE $round->{database} SET cqrs.retention = -1");
	@setup = run($round, 1, $round->{setup});
	if ($setup[0]{errors} =~ /ERROR/)
	{
		@wrong = ("setup: $setup[0]{errors}");
	}
	else
	{
		$node->safe_psql('postgres', "ALTER DATABASE $round->{database} SET cqrs.max_workers = 1") if $round->{worker};
		@runs = run($round, 0, map { [ map { @$_ } @$_ ] } @{ $round->{scripts} });
		@left = split(/\n/, ($node->psql($round->{database}, 'SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid'))[1] // '');
		push @runs, run($round, 0, [ map { pick('COMMIT', 'ROLLBACK') . " PREPARED '$_'" } @left ]);
		@wrong = (wrong_errors(@runs), judge($round));
	}
	$seen{rounds}++;
	$seen{transactions} += @$_ foreach @{ $round->{scripts} };
	ok(!@wrong, "seed $number: the outbox equals the log");
	show_failure($round, @wrong) if @wrong;
	$node->safe_psql('postgres', "DROP DATABASE $round->{database} WITH (FORCE)") unless @wrong;
	return !@wrong;
}

# Shows what is wrong, and leaves the scripts of the round in a file.
sub show_failure
{
	my ($round, @wrong) = @_;
	my $file = ($ENV{TESTDIR} // '.') . "/seed_$round->{number}.sql";
	my $number = 0;

	unlink($file);
	PostgreSQL::Test::Utils::append_to_file($file, script($round, 0, $round->{setup}));
	PostgreSQL::Test::Utils::append_to_file($file, "\n-- session\n" . script($round, $number++, [ map { @$_ } @$_ ])) foreach @{ $round->{scripts} };
	diag("seed $round->{number}, $round->{sessions} session(s), script in $file\n", map { substr($_, 0, 800) . "\n" } @wrong);
	return;
}

# Makes the database that rounds are copies of.
sub make_template
{
	my $library = PostgreSQL::Test::Utils::slurp_file('test/random/capture.sql');

	$node->safe_psql('postgres', 'CREATE DATABASE fuzz');
	$node->safe_psql('fuzz', $library);
	$node->safe_psql('postgres', 'CREATE DATABASE asked TEMPLATE fuzz');
	$node->safe_psql('asked', 'CREATE TABLE partitioned (x integer) PARTITION BY LIST (x); CREATE TABLE parent (x integer); CREATE TABLE child () INHERITS (parent)');
	foreach my $kind (qw(partitioned parent))
	{
		$can{$kind} = $node->psql('asked', "SELECT cqrs.capture('$kind')") == 0;
	}
	return;
}

my $until = time() + $seconds;
my $number = $seed;
my $good;

# A psql that ends early, as its server crashed, is a failure to show, not our end.
local $SIG{PIPE} = 'IGNORE';

make_template();
note("seed $seed, $seconds s; sources can be " . join(', ', 'plain', grep { $can{$_} } sort keys %can));
do
{
	$good = test_round($number++);
} while ($good && time() < $until);
is(join("\n", grep { /PANIC:|TRAP:|terminated by signal/ } split(/\n/, PostgreSQL::Test::Utils::slurp_file($node->logfile))), '', 'the server is well');
note(join(', ', map { "$seen{$_} $_" } qw(rounds transactions statements errors changes)));
note('errors: ' . join(', ', map { "$_ $errors{$_}" } sort { $errors{$b} <=> $errors{$a} } keys %errors));
$node->stop;
done_testing();
