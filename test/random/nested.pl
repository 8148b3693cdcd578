# Random queries of any depth over random tables and views, random changes, and the plain query as the judge: nested.pl [SECONDS [SEED]], or SECONDS and SEED in
# the environment.
#
# A round makes tables of all kinds of columns, full of nulls and equal values, views over them and over each other, and read models side by side
# over all that and over each other (what they may hold is in Queries.pm), and changes several tables in one window, in several transactions: rows that come, go,
# change and swap keys, duplicates, whole groups that die and return, TRUNCATE, savepoints rolled back and released, and transactions that commit windows after
# they wrote.  Now and then one read model is paused for a part of a window.
# After each window every read model must equal its query, and at the end cqrs.verify must agree.  Every construct is asked for in turn; one that never
# came is a failure, and the end of the output says how often each was seen under which strategy.
# Round N of a run has the seed SEED + N, so `nested.pl 1 SEED` repeats one.  A difference is cut down to the changes it needs, and shown.
use strict;
use warnings;

use lib 'test/random', 'test/t';
use Queries;
use Rounds;
use Test::More;

use constant {
	QUERIES => 10,
	WINDOWS => 7,
	LATE_ID => 100		# late transactions touch ids from this on, others those below: neither waits for the other
};

my $seconds = $ARGV[0] // $ENV{SECONDS} // 30;
my $seed = $ARGV[1] // $ENV{SEED} // int(rand(1_000_000_000));

# What queries are asked to hold, in turn.
my @constructs = (
	'inner join', 'left join', 'right join', 'full join', 'cross join', 'natural join', 'USING', 'self join', 'non-equality condition', 'composite key',
	'key from several relations', 'expression key', 'key that can be null', 'no key', 'view', 'view in view', 'subquery in FROM', 'subquery two deep', 'CTE',
	'materialized CTE', 'UNION', 'UNION ALL', 'INTERSECT', 'INTERSECT ALL', 'EXCEPT', 'EXCEPT ALL', 'DISTINCT', 'EXISTS', 'NOT EXISTS', 'IN', 'NOT IN',
	'ANY', 'ALL', 'scalar subquery', 'ARRAY subquery', 'LATERAL', 'function in FROM', 'VALUES', 'aggregate with FILTER', 'aggregate with ORDER BY',
	'aggregate with DISTINCT', 'aggregate without GROUP BY', 'WITHIN GROUP', 'user-defined aggregate', 'grouping sets', 'group by primary key', 'HAVING',
	'window', 'window over the key', 'window over another column', 'group joined on another column', 'recursion', 'DISTINCT ON', 'LIMIT', 'immutable function', 'domain', 'collation', 'array', 'jsonb', 'partitioned source',
	'inherited source', 'CTE of a subquery', 'set-returning function in the select list', 'tables and inner joins only', 'whole row', 'projection', 'projection in view');
# These are asked for more often: what is wrong with them shows in few windows.
my @asked = (@constructs, ('NOT IN') x 3, 'NOT EXISTS', 'ALL', 'UNION ALL', 'window over the key', 'DISTINCT ON', ('window over another column', 'group joined on another column') x 3);
my %seen = (rounds => 0, queries => 0, windows => 0, keys => 0, full => 0);
my %by_construct;

# ---- tables

# What every round has beside its tables.
my @setup = (
	q{CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)},
	q{CREATE DOMAIN small AS integer CHECK (VALUE BETWEEN -10000 AND 10000)},
	q{CREATE TYPE colour AS ENUM ('red', 'green', 'blue')},
	q{CREATE FUNCTION twice(integer) RETURNS integer LANGUAGE sql IMMUTABLE STRICT AS 'SELECT 2 * $1'},
	q{CREATE FUNCTION either(integer, integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN coalesce($1, $2, 7); END'},
	q{CREATE FUNCTION steady(integer) RETURNS integer LANGUAGE sql STABLE AS 'SELECT coalesce($1, 0) % 2'},
	q{CREATE FUNCTION is_even(integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE STRICT AS 'BEGIN RETURN $1 % 2 = 0; END'},
	q{CREATE FUNCTION spread(integer) RETURNS SETOF integer LANGUAGE sql IMMUTABLE AS 'SELECT generate_series(0, $1 % 3)'},
	q{CREATE AGGREGATE all_bits(integer) (SFUNC = int4or, STYPE = integer)});

# What has the planner choose otherwise: other ways to compute the same, and rows in other orders.
my @planner = (
	(map { "SET enable_$_ = off" } qw(hashjoin nestloop mergejoin seqscan sort hashagg indexscan material)), q{SET work_mem = '64kB'}, 'SET random_page_cost = 1',
	'SET cpu_operator_cost = 1', 'SET plan_cache_mode = force_generic_plan', 'SET plan_cache_mode = force_custom_plan');

# A table: its name, its columns, how ids are kept apart (not at all, or by a primary key that looks at each row or at the end of the statement), and the
# tables of its tree, if it is partitioned or has a child.
sub make_table
{
	my ($name) = @_;
	my $kind = pick(('plain') x 8, 'partitioned', 'inherited');
	my $unique = $kind eq 'plain' ? pick('', '', 'plain', 'plain', 'plain', 'deferrable') : '';
	my %table = (
		name => $name, kind => $kind, unique => $unique, primary => $unique eq 'plain', sure => 1, tree => [$name],
		columns => [ [ 'id', 'i' ], [ 'a', 'i' ], [ 'b', 'i' ], map { [ $_, $_ ] } some(pick(2, 3, 4), qw(n n t t s c o d y j e f)) ]);
	my %once;

	$table{columns} = [ grep { !$once{ $_->[0] }++ } @{ $table{columns} } ];
	$table{key} = ['id'] if $unique ne '';
	$table{tags} = ["$kind source"] if $kind ne 'plain';
	push @{ $table{tree} }, "${name}_child" if $kind eq 'inherited';
	push @{ $table{tree} }, "${name}_one", "${name}_rest" if $kind eq 'partitioned';
	return \%table;
}

# The statements that make a table.  One of its partitions has its columns in another order.
sub create_table
{
	my ($table) = @_;
	my ($name, $kind) = @$table{qw(name kind)};
	my %constraint = ('' => '', plain => ' PRIMARY KEY', deferrable => ' PRIMARY KEY DEFERRABLE');
	my @columns = map { "$_->[0] " . type_name($_->[1]) . ($_->[0] eq 'id' ? $constraint{ $table->{unique} } : '') } @{ $table->{columns} };
	my $create = "CREATE TABLE $name (" . join(', ', @columns) . ')';

	return $create if $kind eq 'plain';
	return ($create, "CREATE TABLE ${name}_child (more integer) INHERITS ($name)") if $kind eq 'inherited';
	return ("$create PARTITION BY LIST (a)", "CREATE TABLE ${name}_one (" . join(', ', reverse @columns) . ')',
		"ALTER TABLE $name ATTACH PARTITION ${name}_one FOR VALUES IN (1, NULL)", "CREATE TABLE ${name}_rest PARTITION OF $name DEFAULT");
}

# ---- changes

# An INSERT of rows from somewhere; into a table with a primary key only of those that do not clash.
sub insert_from
{
	my ($table, $rows) = @_;
	my $name = $table->{kind} eq 'inherited' ? pick(@{ $table->{tree} }) : $table->{name};
	my $names = join(', ', map { $_->[0] } @{ $table->{columns} });

	return "INSERT INTO $name SELECT $names FROM $rows" unless $table->{unique};
	return "INSERT INTO $name SELECT DISTINCT ON (id) $names FROM $rows WHERE id IS NOT NULL AND id NOT IN (SELECT id FROM $name) ORDER BY $names";
}

# An INSERT of a few rows with ids from a number on; rows of a table without a key come in pairs now and then.
sub insert
{
	my ($table, $from, $count) = @_;
	my @columns = @{ $table->{columns} };
	my @rows;

	foreach my $number (1 .. $count)
	{
		my $id = $table->{unique} || chance(0.85) ? $from + int(rand(5)) : 'NULL::integer';
		my $row = '(' . join(', ', $id, map { literal($_->[1], 1) } @columns[ 1 .. $#columns ]) . ')';

		push @rows, $row;
		push @rows, $row if !$table->{unique} && chance(0.2);
	}
	return insert_from($table, '(VALUES ' . join(', ', @rows) . ') v (' . join(', ', map { $_->[0] } @columns) . ')');
}

# A condition that picks some rows of a table, late ones or others.
sub some_rows
{
	my ($table, $from) = @_;
	my $range = $from ? 'id >= ' . LATE_ID : '(id < ' . LATE_ID . ' OR id IS NULL)';
	my $rows = pick('a = ' . int(rand(3)), 'b = ' . int(rand(3)), 'b IS NULL', "id = $from + " . int(rand(5)),
		"ctid = (SELECT min(ctid) FROM $table->{name} WHERE $range)", 'true');

	return "$range AND $rows";
}

# An UPDATE of one column, or of two.
sub update
{
	my ($table, $from) = @_;
	my @columns = @{ $table->{columns} };
	my @set = map { "$_->[0] = " . (chance(0.1) ? $_->[0] : literal($_->[1], 1)) } some(pick(1, 1, 2), @columns[ 1 .. $#columns ]);

	return "UPDATE $table->{name} SET " . join(', ', @set) . ' WHERE ' . some_rows($table, $from);
}

# A statement that changes tables.
sub change
{
	my ($tables, $from, $truncate) = @_;
	my ($table, $other) = (pick(@$tables), pick(@$tables));
	my $name = $table->{name};
	my $luck = rand();

	return insert($table, $from, pick(1, 1, 2, 3)) if $luck < 0.33;
	return update($table, $from) if $luck < 0.58;
	return "DELETE FROM $name WHERE " . some_rows($table, $from) if $luck < 0.76;
	return "UPDATE $name SET a = b, b = a WHERE " . some_rows($table, $from) if $luck < 0.82;
	if ($luck < 0.87 && $table->{unique} ne 'plain')
	{
		return "UPDATE $name SET id = CASE id WHEN $from THEN $from + 1 ELSE $from END WHERE id IN ($from, $from + 1)";
	}
	return 'TRUNCATE ' . pick(@{ $table->{tree} }) if $luck < 0.885 && $truncate;
	return moved_partition($table) if $luck < 0.9 && $truncate && $table->{kind} eq 'partitioned';
	return moved($table, $other, $from) if $luck < 0.94;
	return "UPDATE $name SET id = id WHERE " . some_rows($table, $from);
}

# A statement that deletes from one table and inserts into another; what the other has that the one has not is null.
sub moved
{
	my ($table, $other, $from) = @_;
	my %has = map { $_->[0] => 1 } @{ $table->{columns} };
	my $row = join(', ', map { my ($name, $type) = @$_; ($has{$name} ? $name : 'NULL::' . type_name($type)) . " AS $name" } @{ $other->{columns} });

	return "WITH gone AS (DELETE FROM $table->{name} WHERE " . some_rows($table, $from) . ' RETURNING *) ' . insert_from($other, "(SELECT $row FROM gone) g");
}

# Statements that take a partition out of its table, change it and put it back.
sub moved_partition
{
	my ($table) = @_;
	my ($name, $part) = ($table->{name}, "$table->{name}_one");

	return ("ALTER TABLE $name DETACH PARTITION $part", "UPDATE $part SET b = " . literal('i', 1), "ALTER TABLE $name ATTACH PARTITION $part FOR VALUES IN (1, NULL)");
}

# A transaction, as a list of statements.
sub transaction
{
	my ($tables, $truncate) = @_;
	my @statements = map { change($tables, 0, $truncate) } 1 .. pick(1, 1, 2, 3);

	if (chance(0.2))
	{
		push @statements, 'SAVEPOINT s', change($tables, 0, $truncate), pick('ROLLBACK TO s', 'RELEASE s'), change($tables, 0, $truncate);
	}
	return ('BEGIN', @statements, chance(0.92) ? 'COMMIT' : 'ROLLBACK');
}

# The changes of a round: a list of windows, each a list of transactions.  One that is late is prepared in one window and commits in a later one.
sub make_windows
{
	my ($tables, $schema) = @_;
	my @windows;
	my $late;

	foreach my $number (1 .. WINDOWS)
	{
		my @transactions = map { [ transaction($tables, !defined $late) ] } 1 .. pick(1, 2, 3);

		if (defined $late)
		{
			if ($number == WINDOWS || chance(0.6))
			{
				push @transactions, ["COMMIT PREPARED '$late'"];
				undef $late;
			}
		}
		elsif ($number < WINDOWS && chance(0.4))
		{
			$late = "${schema}_$number";
			unshift @transactions, [ 'BEGIN', (map { change($tables, LATE_ID, 0) } 1 .. pick(1, 2, 3)), "PREPARE TRANSACTION '$late'" ];
			@transactions = grep { "@$_" !~ /TRUNCATE|ALTER/ } @transactions;
		}
		push @windows, \@transactions;
	}
	return \@windows;
}

# ---- rounds

# A round from its number.
sub make_round
{
	my ($number) = @_;
	my @tables = map { make_table("t$_") } 0 .. pick(1, 2, 3);
	my $all_at_once = 'SET enable_nestloop = ' . pick('on', 'off');		# how keys are computed, where tables are small
	my %relations = (tables => \@tables, views => [], models => []);
	my %round = (schema => "round_$number", setup => [ (chance(0.5) ? some(pick(1, 2, 3), @planner) : ()), $all_at_once, @setup ]);

	foreach my $table (@tables)
	{
		push @{ $round{setup} }, create_table($table);
		push @{ $round{setup} }, insert($table, 0, pick(1, 2, 3)) if chance(0.9);
		push @{ $round{setup} }, insert($table, LATE_ID, pick(1, 2)) if chance(0.7);
	}
	foreach my $view (1 .. pick(0, 1, 2, 3))
	{
		my $made = make_view(\%relations, "v$view");

		push @{ $round{setup} }, $made->{text};
		push @{ $relations{views} }, $made;
	}
	foreach my $query (1 .. QUERIES)
	{
		my $made = make_query(\%relations, $asked[ ($number * QUERIES + $query) % @asked ]);

		$round{queries}{$query} = $made;
		next if chance(0.6);
		$made->{view} = chance(0.3);
		push @{ $relations{models} }, {
			name => ($made->{view} ? 'over_' : 'p') . $query, columns => $made->{columns}, key => $made->{names}, sure => $made->{sure},
			tags => [ 'projection', $made->{view} ? 'projection in view' : () ] };
	}
	$round{windows} = make_windows(\@tables, $round{schema});
	$round{pauses} = { map { $_ => 1 + int(rand(QUERIES)) } grep { chance(0.3) } 0 .. WINDOWS - 1 };
	return \%round;
}

# Counts what a round was about.
sub learn
{
	my ($round, $strategies) = @_;
	my $windows = @{ $round->{windows} };

	$seen{rounds}++;
	foreach my $number (keys %$strategies)
	{
		my ($strategy, $full, $sources) = @{ $strategies->{$number} };

		$seen{queries}++;
		$seen{windows} += $windows;
		$seen{full} += $full;
		$seen{keys} += $sources - $full;
		$by_construct{$_}{$strategy} += $windows foreach @{ $round->{queries}{$number}{tags} }, 'all together';
	}
	return;
}

# Shows how many windows of each construct were maintained by which strategy.
sub show_constructs
{
	my @strategies = qw(delta keys full);

	note(sprintf('%-28s' . '%10s' x @strategies, 'windows by construct', @strategies));
	foreach my $construct (sort keys %by_construct)
	{
		note(sprintf('%-28s' . '%10d' x @strategies, $construct, map { $by_construct{$construct}{$_} // 0 } @strategies));
	}
	return;
}

my $node = rounds_server('nested');

run_rounds($seconds, $seed, \&make_round, \&learn);
show_constructs();
note(join(', ', map { "$seen{$_} $_" } qw(rounds queries windows keys full)));
if ($seen{queries} >= 5 * @constructs)
{
	is(join(', ', grep { !$by_construct{$_} } @constructs), '', 'every construct came');
}
$node->stop;
done_testing();
