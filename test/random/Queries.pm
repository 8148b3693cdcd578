# A generator of queries over everything a read model may hold: make_query makes one over given relations, with a key, and says what is in it.
#
# Types are letters: i integer, s a domain over it, l bigint, n numeric, t text, c text that ignores case, o boolean, d date, y integer[], j jsonb, e an enum,
# f double precision, and m: a numeric that was merged with equal ones, so that nobody can say whether it is 1.0 or 1.00.  What can be one of several equal
# values (m, c) is never looked at more closely than by =, and whatever takes one row of several puts them in an order first, so that two evaluations of a
# query are always the same rows.
#
#   column    { sql, type, var (a plain column: a subquery may name it), of (its relation) }
#   relation  { name, columns => [ [name, type], ... ], key => [names] or undef, sure (the key is never null altogether), tags }
#   item      what stands in FROM: { text, columns, key => [columns] or undef, sure }
#   select    { text, columns => [ [name, type], ... ], key => [names] or undef, sure }
# Everything else hangs on one hash, $g: the query being made, with its budget of relations, the tags of what is in it, and names given so far.
package Queries;

use strict;
use warnings;

use Exporter 'import';
use Rounds qw(chance pick some);

our @EXPORT = qw(make_query make_view literal type_name);

my %type_names = (
	i => 'integer', s => 'small', l => 'bigint', n => 'numeric', m => 'numeric', t => 'text', c => 'text COLLATE folded', o => 'boolean', d => 'date',
	y => 'integer[]', j => 'jsonb', e => 'colour', f => 'double precision');

# What can be compared with what.
my %class = (i => 'i', s => 'i', l => 'i', n => 'i', m => 'i', t => 't', c => 't', o => 'o', d => 'd', y => 'y', j => 'j', e => 'e', f => 'f');

# Forms of a query, by how often they are wanted at the top of one, below, and in one that only joins tables.
my %forms = (
	plain => [ \&plain, 25, 10, 4 ], entity => [ \&entity, 20, 2, 0 ], looked_up => [ \&looked_up, 8, 2, 0 ], grouped => [ \&grouped, 30, 10, 8 ], sets => [ \&grouping_sets, 6, 2, 1 ], one => [ \&one_row, 5, 3, 3 ],
	distinct => [ \&distinct, 6, 4, 3 ], operation => [ \&set_operation, 9, 5, 0 ], tagged => [ \&tagged_union, 4, 2, 0 ], window => [ \&window, 10, 5, 0 ],
	first => [ \&distinct_on, 4, 4, 0 ], limit => [ \&limited, 3, 3, 0 ], recursive => [ \&recursive, 3, 1, 0 ]);

# ---- names, tags, values

sub tag { my ($g, @tags) = @_; $g->{tags}{$_} = 1 foreach @tags; return }
sub new_name { my ($g, $letter) = @_; return $letter . ++$g->{names} }
sub type_name { return $type_names{ $_[0] } }

# A value of a type, as an expression: few different ones, so that they meet; equal ones that look different.
sub literal
{
	my ($type, $nullable) = @_;

	return "NULL::$type_names{$type}" if $nullable && chance(0.15);
	return pick(0, 1, 2) if $type =~ /[is]/;
	return pick(0, 1, 2) . '::bigint' if $type eq 'l';
	return pick(qw(0.0 0.00 1.0 1.00 1.5 1.5 (-2.25) 'NaN' 'Infinity')) . '::numeric' if $type =~ /[nm]/;
	return q{'} . pick('', 'x', 'X', 'y', 'xy') . q{'::text} if $type eq 't';
	return q{('} . pick('x', 'X', 'y', 'Y') . q{'::text COLLATE folded)} if $type eq 'c';
	return pick('true', 'false') if $type eq 'o';
	return q{'2026-01-0} . pick(1, 2, 3) . q{'::date} if $type eq 'd';
	return pick(q{'{}'::integer[]}, 'ARRAY[1]', 'ARRAY[0, 2]', 'ARRAY[2, NULL, 1]') if $type eq 'y';
	return pick(q('{}'), q('{"a": 1}'), q('{"a": null, "b": [1]}'), q('[1, 2]')) . '::jsonb' if $type eq 'j';
	return q{'} . pick(qw(red green blue)) . q{'::colour} if $type eq 'e';
	return pick(qw(0 0.5 2.5 'NaN' 'Infinity')) . '::double precision';
}

# One of some columns that has a type of a class, or undef.
sub column_like
{
	my ($class, @columns) = @_;
	my @fit = grep { $class{ $_->{type} } eq $class } @columns;

	return @fit ? pick(@fit) : undef;
}

# Two columns that can be compared, one of each list; nothing if there are none.  Integers more often than others, keys more often than others.
sub comparable
{
	my ($left, $right) = @_;

	foreach my $attempt (1 .. 8)
	{
		my $x = pick(@$left) // return;
		my $y = column_like($class{ $x->{type} }, @$right) // next;

		return ($x, $y) if $x != $y && ($class{ $x->{type} } eq 'i' || chance(0.4));
	}
	return;
}

# The columns an expression may name: those of its own level, and sometimes those of the levels around it.
sub visible
{
	my ($scope) = @_;
	my @outer = @{ $scope->{outer} };

	return (@{ $scope->{columns} }, @outer && (!@{ $scope->{columns} } || chance(0.25)) ? @outer : ());
}

# ---- expressions

# An expression of a type.
sub expression
{
	my ($g, $scope, $type, $depth) = @_;
	my @columns = grep { $_->{type} eq $type } visible($scope);
	my $made;

	return pick(@columns)->{sql} if @columns && ($depth <= 0 || chance(0.55));
	if ($depth > 0)
	{
		my %makers = (i => \&integer, n => \&number, t => \&text, o => \&predicate, d => \&day, y => \&array, j => \&document, f => \&real);

		$made = subquery_value($g, $scope, $type, $depth - 1) if $g->{budget} > 0 && chance(0.2);
		$made //= $makers{$type}->($g, $scope, $depth - 1) if $makers{$type};
	}
	return $made // (@columns ? pick(@columns)->{sql} : literal($type, 1));
}

sub integer
{
	my ($g, $scope, $depth) = @_;
	my ($x, $y) = map { expression($g, $scope, 'i', $depth) } 1 .. 2;
	my $other = pick(visible($scope)) // return;
	my $kind = int(rand(8));

	if ($kind == 0 && $other->{type} =~ /[slo]/)
	{
		tag($g, 'domain') if $other->{type} eq 's';
		return "$other->{sql}\::integer";
	}
	return "length($other->{sql})" if $kind <= 1 && $other->{type} eq 't';
	return "cardinality($other->{sql})" if $kind <= 1 && $other->{type} eq 'y';
	return "($other->{sql} - '2026-01-01'::date)" if $kind <= 1 && $other->{type} eq 'd';
	if ($kind == 2)
	{
		tag($g, 'immutable function');
		return pick("twice($x)", "either($x, $y)", "steady($x)");
	}
	return "coalesce($x, $y)" if $kind == 3;
	return 'CASE WHEN ' . predicate($g, $scope, $depth - 1) . " THEN $x ELSE $y END" if $kind == 4;
	return "($x + $y)" if $kind == 5;
	return "($x % 2)" if $kind == 6;
	return pick("nullif($x, $y)", "greatest($x, $y)", "($x)::small::integer");
}

sub number
{
	my ($g, $scope, $depth) = @_;

	return '(' . expression($g, $scope, 'i', $depth) . ')::numeric' if chance(0.4);
	return '(' . expression($g, $scope, 'n', $depth) . pick(' + ', ' * ', ' - ') . '1.50)';
}

sub text
{
	my ($g, $scope, $depth) = @_;
	my $x = expression($g, $scope, 't', $depth);
	my $other = pick(visible($scope)) // return;

	return "($other->{sql})::text" if $other->{type} =~ /[isndoeyj]/ && chance(0.5);
	return pick("lower($x)", "($x || 'z')", "concat_ws('-', $x, " . expression($g, $scope, 'i', $depth) . ')', "format('%s!', $x)", "left($x, 1)");
}

sub day
{
	my ($g, $scope, $depth) = @_;

	return '(' . expression($g, $scope, 'd', $depth) . ' + ' . expression($g, $scope, 'i', 0) . ')';
}

sub array
{
	my ($g, $scope, $depth) = @_;
	my ($x, $y) = map { expression($g, $scope, 'i', $depth) } 1 .. 2;

	tag($g, 'array');
	return pick("ARRAY[$x, $y]", 'array_append(' . expression($g, $scope, 'y', $depth) . ", $x)");
}

sub document
{
	my ($g, $scope, $depth) = @_;
	my ($x, $y) = (expression($g, $scope, 'i', $depth), expression($g, $scope, 't', $depth));

	my $row = whole_row($scope);

	tag($g, 'jsonb');
	if ($row && chance(0.3))
	{
		tag($g, 'whole row');
		return "to_jsonb($row)";
	}
	return pick("jsonb_build_object('n', $x, 'name', $y)", "jsonb_build_array($x, $y)", "to_jsonb($y)");
}

# A relation whose rows can be looked at as a whole, or undef.
sub whole_row
{
	my ($scope) = @_;
	my $relation = (pick(@{ $scope->{columns} }) // {})->{of} // '';

	return if $relation !~ /^r\d+$/ || grep { ($_->{of} // '') eq $relation && $_->{type} =~ /[mcf]/ } @{ $scope->{columns} };
	return $relation;
}

sub real
{
	my ($g, $scope, $depth) = @_;

	return '(' . expression($g, $scope, 'i', $depth) . ' / 2.0::double precision)';
}

# ---- conditions

# A condition about one level's columns, or a subquery.
sub predicate
{
	my ($g, $scope, $depth) = @_;
	my @columns = visible($scope);
	my $column = pick(@columns) // return 'true';
	my ($x, $type) = ($column->{sql}, $column->{type});
	my $kind = int(rand(12));

	return subquery_condition($g, $scope, $depth) if $depth > 0 && $g->{budget} > 0 && chance(0.25);
	if ($kind == 0 && $depth > 0)
	{
		return '(' . predicate($g, $scope, $depth - 1) . ' OR ' . predicate($g, $scope, $depth - 1) . ')';
	}
	return 'NOT (' . predicate($g, $scope, $depth - 1) . ')' if $kind == 1 && $depth > 0;
	if ($kind == 2)
	{
		$x = $column->{of} if $depth > 0 && ($column->{of} // '') =~ /^r\d+$/ && chance(0.3);
		return pick("$x IS NULL", "$x IS NOT NULL");
	}
	return special_condition($g, $scope, $column) // "$x IS NOT NULL" if $kind <= 4;
	if ($kind <= 7)
	{
		my ($left, $right) = comparable(\@columns, \@columns);

		return compare($g, $left->{sql}, $right->{sql}) if $left;
	}
	return compare($g, $x, literal($type, 0)) if $kind <= 10;
	return "coalesce($x, " . literal($type, 0) . ') = ' . literal($type, 0);
}

# A comparison of two expressions; an equality more often than not.
sub compare
{
	my ($g, $x, $y) = @_;

	return "$x = $y" if chance(0.6);
	tag($g, 'non-equality condition');
	return pick("$x < $y", "$x <> $y", "$x >= $y", "$x IS NOT DISTINCT FROM $y", "$x IS DISTINCT FROM $y");
}

# A condition that only a column's type has; undef if it has none.
sub special_condition
{
	my ($g, $scope, $column) = @_;
	my ($x, $type) = ($column->{sql}, $column->{type});
	my $n = pick(0, 1, 2);

	return pick("$x IN (0, 2)", "$x = ANY (ARRAY[1, $n, NULL])", "is_even($x\::integer)") if $type =~ /[isl]/;
	return pick("$x LIKE 'x%'", "$x COLLATE \"C\" < 'x'", "$x ~ '[xX]'") if $type eq 't';
	return $x if $type eq 'o';
	return pick("$x \@> ARRAY[$n]", "$n = ANY ($x)", "($x)[1] = $n") if $type eq 'y';
	return pick("$x ? 'a'", qq($x \@> '{"a": 1}'), "$x ->> 'a' IS NULL") if $type eq 'j';
	tag($g, 'collation') if $type eq 'c';
	return;
}

# A condition with a subquery.
sub subquery_condition
{
	my ($g, $scope, $depth) = @_;
	my $kind = int(rand(8));
	my $inner = inner_level($g, $scope, $depth - 1);
	my $rest = $inner->{rest};
	my ($x, $y) = comparable([ visible($scope) ], $inner->{columns});
	my ($z, $w) = comparable([ visible($scope) ], $inner->{columns});
	my ($not, $operator) = (pick('', 'NOT '), pick('=', '<>', '<', '>='));

	if ($kind <= 2 || !$x)
	{
		tag($g, $not . 'EXISTS');
		return "${not}EXISTS (SELECT " . pick('', '1', $inner->{columns}[0]{sql}) . " $rest)";
	}
	if ($kind <= 4)
	{
		tag($g, $not . 'IN');
		return "($x->{sql}, $z->{sql}) ${not}IN (SELECT $y->{sql}, $w->{sql} $rest)" if $z && chance(0.2);
		return "$x->{sql} ${not}IN (" . value_list($g, $scope, $inner, $y, $depth) . ')';
	}
	if ($kind == 5)
	{
		my $which = pick('ANY', 'ALL');

		tag($g, $which);
		return "$x->{sql} $operator $which (SELECT $y->{sql} $rest)";
	}
	if ($kind == 6 && $y->{type} ne 'y')
	{
		tag($g, 'ARRAY subquery');
		return 'cardinality(ARRAY(SELECT ' . $y->{sql} . " $rest)) " . pick('> 1', '= 1', '= 0');
	}
	tag($g, 'scalar subquery');
	return "$x->{sql} $operator (SELECT " . pick('max', 'min') . "($y->{sql}) $rest)" if $y->{type} !~ /[ojec]/;
	return pick(0, 1, 2) . " $operator (SELECT count($y->{sql}) $rest)";
}

# What IN looks through: one column of a subquery, which may be grouped or united with another.
sub value_list
{
	my ($g, $scope, $inner, $y, $depth) = @_;
	my $select = "SELECT $y->{sql} $inner->{rest}";

	return "$select GROUP BY $y->{sql} HAVING count(*) > 1" if chance(0.1);
	return "$select ORDER BY 1 LIMIT 2" if chance(0.1);
	if ($g->{budget} > 0 && chance(0.1))
	{
		my $other = inner_level($g, $scope, $depth - 1);
		my ($z) = grep { $_->{type} eq $y->{type} } @{ $other->{columns} };

		return "$select " . pick('UNION', 'UNION ALL', 'EXCEPT') . " SELECT $z->{sql} $other->{rest}" if $z;
	}
	return $select;
}

# A level below: its columns, and what follows its select list, mostly bound to the level above by an equality.
sub inner_level
{
	my ($g, $scope, $depth) = @_;
	my @outer = grep { $_->{var} } @{ $scope->{columns} }, @{ $scope->{outer} };
	my $item = item($g, \@outer, $depth);
	my ($x, $y) = comparable($item->{columns}, \@outer);
	my ($z, $w) = comparable($item->{columns}, \@outer);
	my @where;

	push @where, "$z->{sql} = $w->{sql}" if $z && chance(0.2);
	push @where, chance(0.85) ? "$x->{sql} = $y->{sql}" : compare($g, $x->{sql}, $y->{sql}) if $x && chance(0.85);
	push @where, predicate($g, { columns => $item->{columns}, outer => \@outer }, $depth) if chance(0.25);
	return { columns => $item->{columns}, rest => "FROM $item->{text}" . where(@where) };
}

sub where { return @_ ? ' WHERE ' . join(' AND ', @_) : '' }

# A subquery in an expression, of a type; undef if none can be made.
sub subquery_value
{
	my ($g, $scope, $type, $depth) = @_;
	my ($inner, $value);

	return if $type !~ /[ilntyj]/;
	$inner = inner_level($g, $scope, $depth);
	if ($type eq 'y' && chance(0.6))
	{
		$value = column_like('i', grep { $_->{type} =~ /[is]/ } @{ $inner->{columns} }) // return;
		tag($g, 'ARRAY subquery', 'array');
		return "ARRAY(SELECT $value->{sql}\::integer $inner->{rest} ORDER BY 1)";
	}
	tag($g, 'scalar subquery');
	return "(SELECT count(*) $inner->{rest})" if $type eq 'l';
	return '(SELECT count(*)::numeric ' . $inner->{rest} . ')' if $type eq 'n' && chance(0.3);
	($value) = some(1, grep { $_->{type} eq ($type =~ /[yj]/ ? 'i' : $type) } @{ $inner->{columns} });
	$value = $value ? $value->{sql} : return;
	if (chance(0.3) && $type =~ /[int]/)
	{
		my $order = $type eq 'n' ? "$value DESC, $value\::text" : $value;

		return "(SELECT $value $inner->{rest} ORDER BY $order LIMIT 1)";
	}
	return '(SELECT ' . (
		  $type eq 'i' ? pick('max', 'min') . "($value)"
		: $type eq 'n' ? "sum($value)"
		: $type eq 't' ? "string_agg($value, ',' ORDER BY $value)"
		: $type eq 'y' ? "array_agg($value ORDER BY $value)"
		: latest($g, $value, $inner)) . ' ' . ($type eq 'j' ? ')' : "$inner->{rest})");
}

# The aggregate and FROM of a document made of a few rows of a level below.
sub latest
{
	my ($g, $value, $inner) = @_;

	tag($g, 'jsonb', 'LIMIT');
	return "jsonb_agg(jsonb_build_object('v', v) ORDER BY v) FROM (SELECT $value AS v $inner->{rest} ORDER BY 1 LIMIT 2) few";
}

# ---- aggregates

# An aggregate over a level's rows: { sql, type }.
sub aggregate
{
	my ($g, $scope, $depth) = @_;
	my $column = pick(@{ $scope->{columns} });
	my ($x, $type) = ($column->{sql}, $column->{type});

	return sum_or_count($g, $scope) if $g->{inner} && chance(0.9);
	my ($sql, $result) = aggregate_call($g, $scope, $x, $type);

	if (chance(0.25))
	{
		tag($g, 'aggregate with FILTER');
		$sql .= ' FILTER (WHERE ' . predicate($g, { columns => $scope->{columns}, outer => [] }, $depth - 1) . ')';
	}
	return { sql => $sql, type => $result, exact => 1 };
}

# An aggregate that can be kept by adding what changed.
sub sum_or_count
{
	my ($g, $scope) = @_;
	my $column = column_like('i', @{ $scope->{columns} }) // return { sql => 'count(*)', type => 'l' };
	my ($x, $type) = ($column->{sql}, $column->{type});
	my ($sum, $average, $extreme) = $type eq 's' || $type eq 'i' ? qw(l n i) : $type eq 'l' ? qw(n n l) : $type eq 'n' ? qw(n n m) : qw(m m m);
	my ($sql, $result) = @{ pick([ "sum($x)", $sum ], [ "sum($x)", $sum ], [ "avg($x)", $average ], [ "count($x)", 'l' ], [ 'count(*)', 'l' ],
		[ pick('min', 'max') . "($x)", $extreme ]) };

	if (chance(0.15))
	{
		tag($g, 'aggregate with FILTER');
		$sql .= ' FILTER (WHERE ' . predicate($g, { columns => $scope->{columns}, outer => [] }, 0) . ')';
	}
	return { sql => $sql, type => $result, exact => 1 };
}

# The call of an aggregate that suits a type, and what it returns.
sub aggregate_call
{
	my ($g, $scope, $x, $type) = @_;
	my $kind = int(rand(9));

	return ('count(*)', 'l') if $kind == 0;
	return ("count($x)", 'l') if $kind == 1;
	if ($kind == 2)
	{
		tag($g, 'aggregate with DISTINCT');
		return ("count(DISTINCT $x)", 'l');
	}
	if ($type =~ /[isl]/)
	{
		return integer_aggregate($g, "($x)::integer", $kind);
	}
	return (pick("sum($x)", "avg($x)"), $type) if $type =~ /[nm]/ && $kind <= 5;
	return (pick('min', 'max') . "($x)", 'm') if $type =~ /[nm]/;
	return (pick('bool_and', 'bool_or') . "($x)", 'o') if $type eq 'o';
	if ($type eq 't' && $kind <= 6)
	{
		tag($g, 'aggregate with ORDER BY');
		return (pick("string_agg($x, ',' ORDER BY $x)", "string_agg(DISTINCT $x, '+' ORDER BY $x)"), 't');
	}
	return (pick('min', 'max') . "($x)", $type) if $type =~ /[tcdfe]/;
	if ($type eq 'j')
	{
		tag($g, 'jsonb', 'aggregate with ORDER BY');
		return ("jsonb_agg($x ORDER BY $x)", 'j');
	}
	return ("count($x)", 'l');
}

sub integer_aggregate
{
	my ($g, $x, $kind) = @_;

	return ("sum($x)", 'l') if $kind == 3;
	return ("avg($x)", 'n') if $kind == 4;
	if ($kind == 5)
	{
		tag($g, 'WITHIN GROUP');
		return ("mode() WITHIN GROUP (ORDER BY $x)", 'i') if chance(0.3);
		return ("percentile_disc(0.5) WITHIN GROUP (ORDER BY $x DESC)", 'i') if chance(0.5);
		return ("rank(1) WITHIN GROUP (ORDER BY $x)", 'l');
	}
	if ($kind == 6)
	{
		tag($g, 'aggregate with ORDER BY', 'array');
		return ("array_agg($x ORDER BY $x)", 'y');
	}
	if ($kind == 7)
	{
		tag($g, 'user-defined aggregate');
		return ("all_bits($x)", 'i');
	}
	return (pick('min', 'max') . "($x)", 'i');
}

# ---- what stands in FROM

# A relation under an alias.
sub alias
{
	my ($g, $text, $relation, $alias) = @_;
	my %columns;
	my @columns = map {
		$columns{ $_->[0] } = { sql => "$alias.$_->[0]", type => $_->[1], var => 1, of => $alias }
	} @{ $relation->{columns} };

	return {
		text => $text, columns => \@columns, key => $relation->{key} && [ map { $columns{$_} } @{ $relation->{key} } ],
		sure => $relation->{sure}, primary => $relation->{primary}, table => $relation->{name} };
}

# A table, view or CTE under an alias.
sub named_item
{
	my ($g) = @_;
	my @ctes = @{ $g->{ctes} };
	my @views = $g->{inner} ? () : @{ $g->{views} };
	my @models = @{ $g->{models} // [] };
	my $relation = @ctes && chance(0.5) ? pick(@ctes) : @views && chance(0.2) ? pick(@views) : @models && chance(0.3) ? pick(@models) : pick(@{ $g->{tables} });
	my $alias = new_name($g, 'r');

	tag($g, @{ $relation->{tags} // [] });
	tag($g, 'self join') if $g->{read}{ $relation->{name} }++;
	return alias($g, "$relation->{name} AS $alias", $relation, $alias);
}

# Something without a join: a relation, a subquery, VALUES, a function.
sub leaf
{
	my ($g, $outer, $depth) = @_;
	my $alias;

	$g->{budget}--;
	if ($depth > 0 && $g->{budget} > 0 && chance(0.25))
	{
		return subquery_item($g, chance(0.5) ? $outer : [], $depth, '', 'subquery in FROM');
	}
	if (chance(0.03) && !$g->{inner})
	{
		$alias = new_name($g, 'r');
		tag($g, 'VALUES');
		return alias($g, "(VALUES (0, 'x'::text), (1, 'X'), (1, 'y'), (NULL, NULL)) AS $alias (v, w)",
			{ name => $alias, columns => [ [ 'v', 'i' ], [ 'w', 't' ] ] }, $alias);
	}
	return named_item($g);
}

# A subquery under an alias.
sub subquery_item
{
	my ($g, $outer, $depth, $before, @tags) = @_;
	my $alias = new_name($g, 'r');
	my $select;

	push @tags, 'subquery two deep' if $g->{inside};
	tag($g, @tags);
	{
		local $g->{inside} = 1;
		$select = chance(0.1) ? with_inner($g, $outer, $depth - 1) : any_select($g, $outer, $depth - 1, 2);
	}
	return alias($g, "$before($select->{text}) AS $alias", $select, $alias);
}

# A select that reads a CTE of its own, which may name columns of the levels around both.
sub with_inner
{
	my ($g, $outer, $depth) = @_;
	my $cte = any_select($g, $outer, $depth, 2);
	my $name = new_name($g, 'w');
	my $select;
	local $g->{ctes} = [ @{ $g->{ctes} }, { name => $name, columns => $cte->{columns}, key => $cte->{key}, sure => $cte->{sure}, tags => [ 'CTE', 'CTE of a subquery' ] } ];

	$g->{budget}++;
	$select = plain($g, $outer, $depth);
	$select->{text} = "WITH $name AS ($cte->{text}) $select->{text}";
	return $select;
}

# A function in FROM that names columns to its left.
sub function_item
{
	my ($g, $left) = @_;
	my $alias = new_name($g, 'r');
	my $array = column_like('y', @$left);
	my $column = column_like('i', grep { $_->{type} =~ /[isl]/ } @$left);

	tag($g, 'function in FROM');
	if ($array && chance(0.6))
	{
		return alias($g, "unnest($array->{sql}) WITH ORDINALITY AS $alias (v, w)",
			{ name => $alias, columns => [ [ 'v', 'i' ], [ 'w', 'l' ] ], key => ['w'], sure => 1 }, $alias);
	}
	return alias($g, 'spread(' . ($column ? "$column->{sql}\::integer" : 2) . ") AS $alias (v)",
		{ name => $alias, columns => [ [ 'v', 'i' ] ], key => ['v'], sure => 1 }, $alias);
}

# FROM: leaves, joined in some order.
sub item
{
	my ($g, $outer, $depth) = @_;
	my @parts = leaf($g, $outer, $depth);

	push @parts, leaf($g, $outer, $depth) while @parts < 4 && $g->{budget} > 0 && chance($depth > 1 ? 0.55 : 0.3);
	while (@parts > 1)
	{
		my $at = int(rand(@parts - 1));

		splice(@parts, $at, 2, join_items($g, @parts[ $at, $at + 1 ], $depth));
	}
	while (chance($depth > 0 ? 0.12 : 0.03) && $g->{budget} > 0 && !$g->{inner})
	{
		$parts[0] = join_lateral($g, $parts[0], $outer, $depth);
	}
	return $parts[0];
}

# The key of a join; undef if there is none.  Where both sides can be null-extended, a row of one whose key is null is not told from one that is not there.
sub joined_key
{
	my ($type, $left, $right) = @_;

	my $told = $left->{key} && $right->{key} && ($type ne 'FULL' || $left->{sure} || $right->{sure});

	return $told ? [ @{ $left->{key} }, @{ $right->{key} } ] : undef;
}

# Is the key of a join never null altogether?
sub joined_sure
{
	my ($type, $left, $right) = @_;

	return $type eq 'LEFT' ? $left->{sure} : $type eq 'RIGHT' ? $right->{sure} : $type eq 'FULL' ? $left->{sure} && $right->{sure}
	  : $left->{sure} || $right->{sure};
}

# Two items joined.
sub join_items
{
	my ($g, $left, $right, $depth) = @_;
	my $type = $g->{inner} ? 'INNER' : pick(qw(INNER INNER INNER LEFT LEFT LEFT RIGHT FULL));
	my @columns = (@{ $left->{columns} }, @{ $right->{columns} });
	my @on;
	my %join;

	return merged_join($g, $left, $right, $type) if chance(0.08);
	tag($g, lc($type) . ' join');
	@on = join_conditions($g, $left, $right, $type, $depth);
	%join = (columns => \@columns, key => joined_key($type, $left, $right), sure => joined_sure($type, $left, $right));
	$join{text} = !@on && $type eq 'INNER' && chance(0.5) ? "($left->{text} CROSS JOIN $right->{text})"
	  : "($left->{text} $type JOIN $right->{text} ON " . (join(' AND ', @on) || 'true') . ')';
	tag($g, 'cross join') unless @on;
	return chance(0.05) ? hidden($g, \%join) : \%join;
}

# What two items are joined on; nothing now and then, where that can be.
sub join_conditions
{
	my ($g, $left, $right, $type, $depth) = @_;
	my @keys = map { $_->{key} && @{ $_->{key} } && chance(0.6) ? $_->{key} : $_->{columns} } $left, $right;
	my ($x, $y) = comparable(chance(0.5) ? ($keys[0], $right->{columns}) : ($left->{columns}, $keys[1]));
	my ($z, $w) = comparable($left->{columns}, $right->{columns});
	my @on;

	($x, $y) = ($z, $w) unless $x;
	return ('1 = 1') if $type eq 'FULL' && !$x;
	return () if !$x || $type eq 'INNER' && chance(0.06);
	push @on, $type eq 'FULL' || chance(0.9) ? "$x->{sql} = $y->{sql}" : compare($g, $x->{sql}, $y->{sql});
	push @on, compare($g, $z->{sql}, $w->{sql}) if $z && chance(0.2);
	if (chance(0.15) && $type ne 'FULL')
	{
		push @on, predicate($g, { columns => [ @{ $left->{columns} }, @{ $right->{columns} } ], outer => [] }, $depth > 1 ? 1 : 0);
	}
	return @on;
}

# A join under an alias of its own, which gives its columns new names.
sub hidden
{
	my ($g, $join) = @_;
	my $alias = new_name($g, 'j');
	my %new = map { $_->{sql} => { %$_, sql => "$alias." . new_name($g, 'h'), of => $alias } } @{ $join->{columns} };
	my @columns = map { $new{ $_->{sql} } } @{ $join->{columns} };
	my $names = join(', ', map { $_->{sql} =~ s/.*\.//r } @columns);

	return $join if grep { $_->{sql} !~ /\./ } @{ $join->{columns} };
	return { %$join, text => "$join->{text} AS $alias ($names)", columns => \@columns, key => $join->{key} && [ map { $new{ $_->{sql} } } @{ $join->{key} } ] };
}

# A NATURAL join, or one by USING: both sides are made to have one column of the same name.
sub merged_join
{
	my ($g, $left, $right, $type) = @_;
	my ($x, $y) = comparable($left->{columns}, $right->{columns});
	my ($natural, $name) = (chance(0.5), new_name($g, 'u'));
	my @sides;

	return join_items($g, $left, $right, 0) if !$x || $x->{type} ne $y->{type};
	foreach my $side ([ $left, $x ], [ $right, $y ])
	{
		my ($item, $column) = @$side;
		my $alias = new_name($g, 'r');
		my @kept = some(3, @{ $item->{columns} });
		my %new;

		push @kept, grep { my $key = $_; !grep { $_ == $key } @kept } @{ $item->{key} // [] };
		$new{ $_->{sql} } = { %$_, sql => "$alias." . new_name($g, 'c'), of => "side $alias" } foreach @kept;
		push @sides, {
			text => "(SELECT $column->{sql} AS $name, " . join(', ', map { "$_->{sql} AS " . $new{ $_->{sql} }{sql} =~ s/.*\.//r } @kept)
			  . " FROM $item->{text}) AS $alias",
			columns => [ map { $new{ $_->{sql} } } @kept ], key => $item->{key} && [ map { $new{ $_->{sql} } } @{ $item->{key} } ],
			sure => $item->{sure} };
	}
	tag($g, $natural ? 'natural join' : 'USING', lc($type) . ' join', 'subquery in FROM');
	return {
		text => '(' . $sides[0]{text} . ($natural ? ' NATURAL' : '') . " $type JOIN $sides[1]{text}" . ($natural ? '' : " USING ($name)") . ')',
		columns => [ { sql => $name, type => $x->{type} =~ /[nm]/ ? 'm' : $x->{type}, of => 'both' }, map { @{ $_->{columns} } } @sides ],
		key => joined_key($type, @sides), sure => joined_sure($type, @sides) };
}

# An item joined with what names its columns.
sub join_lateral
{
	my ($g, $left, $outer, $depth) = @_;
	my @columns = grep { $_->{var} } @{ $left->{columns} };
	my $type = pick(qw(INNER LEFT LEFT));
	my ($right, $on, $x, $y);

	tag($g, lc($type) . ' join');
	if ($depth <= 0 || chance(0.35))
	{
		$right = function_item($g, \@columns);
	}
	else
	{
		tag($g, 'LATERAL');
		$right = subquery_item($g, [ @columns, @$outer ], $depth, 'LATERAL ');
	}
	$on = chance(0.3) && (($x, $y) = comparable(\@columns, $right->{columns})) ? compare($g, $x->{sql}, $y->{sql}) : 'true';
	return {
		text => "($left->{text} $type JOIN $right->{text} ON $on)", columns => [ @{ $left->{columns} }, @{ $right->{columns} } ],
		key => joined_key($type, $left, $right), sure => joined_sure($type, $left, $right) };
}

# ---- forms of a select

# FROM and WHERE of a select, and its scope.
sub source_of
{
	my ($g, $outer, $depth) = @_;
	my $item = item($g, $outer, $depth);
	my $scope = { columns => $item->{columns}, outer => $outer };
	my @where;
	my ($x, $y) = comparable($item->{columns}, $outer);

	push @where, "$x->{sql} = $y->{sql}" if $x && chance(0.85);
	push @where, predicate($g, $scope, $depth) if chance(0.45);
	push @where, predicate($g, $scope, $depth) if chance(0.15);
	return ($item, $scope, " FROM $item->{text}" . where(@where));
}

# An output column of each of some expressions; equal values of those that are not exact become one, if 'merged'.  Returns the list, and the columns.
sub outputs
{
	my ($g, $merged, @expressions) = @_;
	my (@list, @columns);

	foreach my $expression (@expressions)
	{
		my $name = new_name($g, 'c');

		push @list, "$expression->{sql} AS $name";
		push @columns, [ $name, $merged && !$expression->{exact} && $expression->{type} eq 'n' ? 'm' : $expression->{type} ];
		tag($g, 'domain') if $expression->{type} eq 's';
		tag($g, 'collation') if $expression->{type} eq 'c';
	}
	return (join(', ', @list), @columns);
}

# Some expressions for a select list.
sub expressions
{
	my ($g, $scope, $count, $depth) = @_;

	return map {
		my $column = pick(@{ $scope->{columns} });

		chance(0.5) ? $column : typed_expression($g, $scope, pick(qw(i i i t t n o d y j l)), $depth)
	} 1 .. $count;
}

sub typed_expression
{
	my ($g, $scope, $type, $depth) = @_;

	return { sql => expression($g, $scope, $type, $depth), type => $type };
}

# Says what kind of key a select has.
sub tag_key
{
	my ($g, @key) = @_;
	my %relations = map { $_->{of} ? ($_->{of} => 1) : () } @key;

	$g->{key_tags} = [
		(@key > 1 ? 'composite key' : ()), (keys %relations > 1 ? 'key from several relations' : ()), ((grep { !$_->{of} } @key) ? 'expression key' : ()),
		(@key ? () : 'no key') ];
	return;
}

# A select without groups, told apart by the keys of what it reads.
sub plain
{
	my ($g, $outer, $depth) = @_;
	my ($item, $scope, $rest) = source_of($g, $outer, $depth);
	my @key = @{ $item->{key} // [] };
	my ($list, @columns);

	if (@key && chance(0.05))
	{
		tag($g, 'set-returning function in the select list');
		push @key, { sql => 'spread(' . expression($g, { columns => $item->{columns}, outer => [] }, 'i', 0) . ')', type => 'i' };
	}
	($list, @columns) = outputs($g, 0, @key, expressions($g, $scope, pick(1, 2, 3), $depth));

	tag_key($g, @key);
	return {
		text => "SELECT $list$rest", columns => \@columns, key => $item->{key} && [ map { $columns[$_][0] } 0 .. $#key ], sure => $item->{sure} };
}

# What is known of each row of a table or of a join, which is asked for by subqueries.
sub entity
{
	my ($g, $outer, $depth) = @_;
	my @keyed = grep { $_->{key} } @{ $g->{tables} };
	my $relation = @keyed ? pick(@keyed) : return plain($g, $outer, $depth);
	my $alias = new_name($g, 'r');
	my $item = alias($g, "$relation->{name} AS $alias", $relation, $alias);
	my ($scope, @key, $list, @columns, @where);

	$g->{budget} += 2;
	$item = join_items($g, $item, named_item($g), 0) if chance(0.3);
	$scope = { columns => $item->{columns}, outer => $outer };
	push @where, subquery_condition($g, $scope, 1) foreach 1 .. pick(0, 1, 1, 2);
	@key = @{ $item->{key} // [] };
	($list, @columns) = outputs($g, 0, @key, expressions($g, $scope, 1, 0), map {
			my $type = pick(qw(i l t y j n));
			my $value = subquery_value($g, $scope, $type, 1);

			$value ? { sql => $value, type => $type } : () } 1 .. pick(0, 1, 2));
	tag_key($g, @key);
	return {
		text => "SELECT $list FROM $item->{text}" . where(@where), columns => \@columns, key => $item->{key} && [ map { $columns[$_][0] } 0 .. $#key ],
		sure => $item->{sure} };
}

# Rows of a table, each joined with the groups that a column of it names, which is not its key.
sub looked_up
{
	my ($g, $outer, $depth) = @_;
	my @keyed = grep { $_->{key} } @{ $g->{tables} };
	my $relation = @keyed ? pick(@keyed) : return plain($g, $outer, $depth);
	my $alias = new_name($g, 'r');
	my $item = alias($g, "$relation->{name} AS $alias", $relation, $alias);
	my @others = grep { my $column = $_; !grep { $_ == $column } @{ $item->{key} } } @{ $item->{columns} };
	my ($scope, @key, $list, @columns, @where);

	$g->{budget} += 2;
	foreach my $number (1 .. pick(1, 1, 2))
	{
		$item = join_groups($g, $item, \@others, $depth);
	}
	$scope = { columns => $item->{columns}, outer => $outer };
	push @where, predicate($g, $scope, $depth) if chance(0.25);
	@key = @{ $item->{key} // [] };
	($list, @columns) = outputs($g, 0, @key, expressions($g, $scope, 1, 0), some(3, @{ $item->{columns} }));
	tag_key($g, @key);
	return {
		text => "SELECT $list FROM $item->{text}" . where(@where), columns => \@columns, key => $item->{key} && [ map { $columns[$_][0] } 0 .. $#key ],
		sure => $item->{sure} };
}

# An item joined with groups: a subquery, a view or a CTE of which a key's column equals one of the item's.  Each row has one group at most where that is all of
# the key.
sub join_groups
{
	my ($g, $item, $from, $depth) = @_;
	my $type = pick(qw(INNER INNER LEFT LEFT LEFT RIGHT FULL));
	my $alias = new_name($g, 'r');
	my @named = grep { $_->{key} && @{ $_->{key} } } @{ $g->{views} }, @{ $g->{ctes} };
	my ($select, $groups, $x, $y);

	if (@named && chance(0.3))
	{
		$select = pick(@named);
		tag($g, @{ $select->{tags} // [] });
		$groups = alias($g, "$select->{name} AS $alias", $select, $alias);
	}
	else
	{
		local $g->{inside} = 1;
		$select = pick(\&grouped, \&grouped, \&grouped, \&distinct, \&distinct_on, \&window)->($g, [], $depth > 1 ? 1 : 0);
		$groups = alias($g, "($select->{text}) AS $alias", $select, $alias);
		tag($g, 'subquery in FROM');
	}
	foreach my $attempt (1 .. 8)
	{
		my $column = pick(@{ $groups->{key} // [] }) // last;
		my @like = grep { $_->{type} eq $column->{type} } @$from;

		($x, $y) = (pick(@like), $column) if @like;
		last if $x;
	}
	return $item unless $x;
	tag($g, 'group joined on another column', lc($type) . ' join');
	return {
		text => "($item->{text} $type JOIN $groups->{text} ON $x->{sql} = $y->{sql})", columns => [ @{ $item->{columns} }, @{ $groups->{columns} } ],
		key => @{ $groups->{key} } == 1 && $type =~ /INNER|LEFT/ ? $item->{key} : joined_key($type, $item, $groups),
		sure => joined_sure($type, $item, $groups) };
}

# The expressions that rows are grouped by.
sub group_keys
{
	my ($g, $scope, $depth, $key) = @_;
	my %seen;

	# A constant in GROUP BY is no expression, but an error or the number of a column.
	return grep { $_->{sql} !~ /^(?:\d+|true|false)$/ && !$seen{ $_->{sql} }++ } map {
		my $column = pick($key && @$key && chance(0.5) ? @$key : @{ $scope->{columns} });

		$_ == 1 || chance(0.6) ? $column : typed_expression({ %$g, budget => 0 }, { columns => $scope->{columns}, outer => [] }, pick(qw(i i t o d)), $depth > 0 ? 1 : 0)
	} 1 .. pick(1, 1, 1, 2, 2, 3);
}

# Expressions to group by.
sub group_list { return join(', ', map { $_->{sql} } @_) }

# A grouped select.
sub grouped
{
	my ($g, $outer, $depth) = @_;
	my ($item, $scope, $rest) = source_of($g, $outer, $depth);
	my @keys = group_keys($g, $scope, $depth, $item->{key});
	my @more = (map { aggregate($g, $scope, $depth) } 1 .. pick(1, 2, 2, 3));
	my ($list, @columns, $having);
	my $by = group_list(@keys);

	if ($item->{primary} && chance(0.5))
	{
		tag($g, 'group by primary key');
		@keys = @{ $item->{key} };
		$by = group_list(@keys);
		push @more, pick(@{ $item->{columns} });
	}
	push @more, shown_rows($scope) if chance($g->{inner} ? 0.1 : 0.5);
	($list, @columns) = outputs($g, 1, @keys, @more);
	if (chance(0.3))
	{
		tag($g, 'HAVING');
		$having = ' HAVING ' . predicate($g, { columns => [ (grep { $_->{var} } @keys), @more[ 0, 0 ] ], outer => $outer }, 0);
	}
	tag($g, 'key that can be null') if $keys[0]{type} ne 'l';
	tag_key($g, @keys);
	return {
		text => "SELECT $list$rest GROUP BY $by" . ($having // ''), columns => \@columns, key => [ map { $columns[$_][0] } 0 .. $#keys ], sure => 0 };
}

# An aggregate that shows every row of a group, as far as that can be looked at.
sub shown_rows
{
	my ($scope) = @_;
	my @shown = grep { $_->{type} !~ /[mcf]/ } @{ $scope->{columns} };
	my $row = 'ROW(' . join(', ', map { $_->{sql} } @shown) . ')::text';

	return { sql => "string_agg($row, ' ' ORDER BY $row)", type => 't' };
}

# A select with grouping sets, told apart by the columns and by which of them count.
sub grouping_sets
{
	my ($g, $outer, $depth) = @_;
	my ($item, $scope, $rest) = source_of($g, $outer, $depth);
	my @keys = group_keys($g, $scope, 0, $item->{key});
	my $by = group_list(@keys);
	my $which = { sql => "grouping($by)", type => 'i' };
	my ($list, @columns) = outputs($g, 1, @keys, $which, map { aggregate($g, $scope, 0) } 1 .. 2);
	my @forms = ("ROLLUP ($by)", "CUBE ($by)", "GROUPING SETS (($by), ())");

	push @forms, 'GROUPING SETS (' . join(', ', map { group_list($_) } @keys) . ')' if @keys > 1;
	tag($g, 'grouping sets');
	tag_key($g, @keys, $which);
	return { text => "SELECT $list$rest GROUP BY " . pick(@forms), columns => \@columns, key => [ map { $columns[$_][0] } 0 .. @keys ], sure => 1 };
}

# An aggregate of all rows.
sub one_row
{
	my ($g, $outer, $depth) = @_;
	my ($item, $scope, $rest) = source_of($g, $outer, $depth);
	my ($list, @columns) = outputs($g, 1, map { aggregate($g, $scope, $depth) } 1 .. pick(1, 2, 3));
	my $having = chance(0.2) ? ' HAVING count(*) ' . pick('> 1', '< 3', '<> 2') : '';

	tag($g, 'aggregate without GROUP BY', $having ? 'HAVING' : ());
	tag_key($g);
	return { text => "SELECT $list$rest$having", columns => \@columns, key => [], sure => 0 };
}

# A select of different rows.
sub distinct
{
	my ($g, $outer, $depth) = @_;
	my ($item, $scope, $rest) = source_of($g, $outer, $depth);
	my @expressions = expressions($g, $scope, pick(1, 2, 2, 3), $depth);
	my ($list, @columns) = outputs($g, 1, @expressions);

	tag($g, 'DISTINCT', 'key that can be null');
	tag_key($g, @expressions);
	return { text => "SELECT DISTINCT $list$rest", columns => \@columns, key => [ map { $_->[0] } @columns ], sure => 0 };
}

# One side of a set operation: columns of given types, under given names.
sub branch
{
	my ($g, $outer, $depth, @columns) = @_;
	my ($item, $scope, $rest) = source_of($g, $outer, $depth);

	return 'SELECT ' . join(', ', map {
			my $type = $_->[1] eq 'm' ? 'n' : $_->[1];

			expression($g, $scope, $type, 1) . " AS $_->[0]" } @columns) . $rest;
}

# UNION, INTERSECT, EXCEPT, with or without ALL, of two or three selects.
sub set_operation
{
	my ($g, $outer, $depth) = @_;
	my @columns = map { [ new_name($g, 'c'), pick(qw(i i i t n o d y j)) ] } 1 .. pick(1, 2, 2, 3);
	my $text = branch($g, $outer, $depth - 1, @columns);
	my ($all, @merged);

	foreach my $number (1 .. pick(1, 1, 2))
	{
		my $name = pick(qw(UNION UNION INTERSECT EXCEPT)) . pick('', '', ' ALL');

		tag($g, $name);
		$text = ($number > 1 ? "($text)" : $text) . " $name " . branch($g, $outer, $depth - 1, @columns);
		$all = $name =~ /ALL/;
	}
	@merged = map { [ $_->[0], $_->[1] eq 'n' ? 'm' : $_->[1] ] } @columns;
	tag_key($g, map { { sql => $_->[0] } } @columns) unless $all;
	return { text => $text, columns => \@merged, key => $all ? undef : [ map { $_->[0] } @columns ], sure => 0 };
}

# UNION ALL of selects whose rows say which of them they are from.
sub tagged_union
{
	my ($g, $outer, $depth) = @_;
	my @keyed = grep { $_->{key} && @{ $_->{key} } == 1 } @{ $g->{tables} };
	my @columns = ([ new_name($g, 'c'), 'i' ], [ new_name($g, 'c'), 'i' ], [ new_name($g, 'c'), pick(qw(t i n)) ]);
	my @branches;

	return set_operation($g, $outer, $depth) unless @keyed;
	foreach my $number (0 .. pick(1, 1, 2))
	{
		my $relation = pick(@keyed);
		my $alias = new_name($g, 'r');
		my $item = alias($g, "$relation->{name} AS $alias", $relation, $alias);
		my $scope = { columns => $item->{columns}, outer => $outer };

		$g->{budget}--;
		push @branches, "SELECT $number AS $columns[0][0], $item->{key}[0]{sql} AS $columns[1][0], " . expression($g, $scope, $columns[2][1], 1)
		  . " AS $columns[2][0] FROM $item->{text}" . where(chance(0.5) ? predicate($g, $scope, $depth) : ());
	}
	tag($g, 'UNION ALL');
	tag_key($g, { sql => 0 }, { sql => 1 });
	return { text => join(' UNION ALL ', @branches), columns => \@columns, key => [ $columns[0][0], $columns[1][0] ], sure => 1 };
}

# An order of rows that leaves no two that could be told apart.
sub total_order
{
	my (@columns) = @_;

	return join(', ', map { $_->{type} eq 'n' ? ($_->{sql}, "($_->{sql})::text") : $_->{sql} } @columns);
}

# A select with window functions, partitioned by its key more often than not.
sub window
{
	my ($g, $outer, $depth) = @_;
	my ($item, $scope, $rest) = source_of($g, $outer, $depth);
	my @key = @{ $item->{key} // [] };
	my $by = @key && chance(0.3) ? pick(@key) : pick(@{ $item->{columns} });
	my @more = expressions($g, $scope, pick(0, 1, 2), $depth);
	my $partition = chance(0.8) ? "PARTITION BY $by->{sql} " : '';
	my ($list, @columns);

	push @more, map { window_function($scope, $partition) } 1 .. pick(1, 1, 2);
	if ($partition && $item->{key} && chance(0.4) && !grep { $_ == $by } @key)
	{
		tag($g, 'window over another column');
		push @more, $by if chance(0.5);
	}
	elsif ($partition && $item->{key})
	{
		tag($g, 'window over the key');
		@key = ($by, grep { $_ != $by } @key);
	}
	($list, @columns) = outputs($g, 0, @key, @more);
	tag($g, 'window');
	tag_key($g, @key);
	return { text => "SELECT $list$rest", columns => \@columns, key => $item->{key} && [ map { $columns[$_][0] } 0 .. $#key ], sure => $item->{sure} };
}

# A call of a window function: { sql, type }.  What depends on the order among equals is given all columns to order by.
sub window_function
{
	my ($scope, $partition) = @_;
	my $x = pick(@{ $scope->{columns} });
	my $number = column_like('i', grep { $_->{type} =~ /[isl]/ } @{ $scope->{columns} });
	my $total = total_order(@{ $scope->{columns} });
	my $exact = (grep { $_->{type} =~ /[is]/ } @{ $scope->{columns} })[0];
	my @calls = (
		[ "rank() OVER (${partition}ORDER BY $x->{sql})", 'l' ], [ "dense_rank() OVER (${partition}ORDER BY $x->{sql} DESC)", 'l' ],
		[ "count($x->{sql}) OVER ($partition)", 'l' ], [ "row_number() OVER (${partition}ORDER BY $total)", 'l' ]);

	push @calls, [ "sum($number->{sql}\::integer) OVER (${partition}ORDER BY $x->{sql})", 'l' ],
	  [ "max($number->{sql}\::integer) OVER ($partition)", 'i' ] if $number;
	push @calls, [ "lag($exact->{sql}) OVER (${partition}ORDER BY $total)", $exact->{type} ],
	  [ "first_value($exact->{sql}) OVER (${partition}ORDER BY $total)", $exact->{type} ],
	  [ "sum($exact->{sql}) OVER (${partition}ORDER BY $total ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)", 'l' ] if $exact;
	my $call = pick(@calls);
	return { sql => $call->[0], type => $call->[1] };
}

# The first row of each group, in a total order.
sub distinct_on
{
	my ($g, $outer, $depth) = @_;
	my ($item, $scope, $rest) = source_of($g, $outer, $depth);
	my @key = some(pick(1, 1, 2), @{ $item->{columns} });
	my ($list, @columns) = outputs($g, 0, @key, map { pick(@{ $item->{columns} }) } 1 .. 2);
	my $by = join(', ', map { $_->{sql} } @key);

	tag($g, 'DISTINCT ON', 'key that can be null');
	tag_key($g, @key);
	return {
		text => "SELECT DISTINCT ON ($by) $list$rest ORDER BY $by, " . total_order(@{ $item->{columns} }), columns => \@columns,
		key => [ map { $columns[$_][0] } 0 .. $#key ], sure => 0 };
}

# The first rows in a total order.
sub limited
{
	my ($g, $outer, $depth) = @_;
	my ($item, $scope, $rest) = source_of($g, $outer, $depth);
	my @key = @{ $item->{key} // [] };
	my @expressions = (@key, expressions($g, $scope, pick(1, 2), $depth));
	my ($list, @columns) = outputs($g, 0, @expressions);
	my $order = total_order(grep { $_->{sql} !~ /^(?:\d+|true|false)$/ } @expressions);

	tag($g, 'LIMIT');
	tag_key($g, @key);
	return {
		text => "SELECT $list$rest" . ($order ne '' ? " ORDER BY $order" : '') . ' LIMIT ' . pick(1, 2, 3) . pick('', '', ' OFFSET 1'), columns => \@columns,
		key => $item->{key} && [ map { $columns[$_][0] } 0 .. $#key ], sure => $item->{sure} };
}

# What is reached from some rows of a table, by steps from one of its columns to another.
sub recursive
{
	my ($g) = @_;
	my $table = pick(@{ $g->{tables} })->{name};
	my ($cte, $start, $next) = map { new_name($g, $_) } qw(w r r);
	my ($id, $up, $steps) = map { new_name($g, 'c') } 1 .. 3;
	my $all = chance(0.5);
	my $recursion = "SELECT $start.id AS $id, $start.a AS $up, 0 AS $steps FROM $table AS $start WHERE $start.b = 1 UNION" . ($all ? ' ALL' : '')
	  . " SELECT $next.id, $next.a, $steps + 1 FROM $table AS $next JOIN $cte ON $next.a = $cte.$id WHERE $steps < 2";
	my ($rows, $least) = map { new_name($g, 'c') } 1 .. 2;

	$g->{budget} -= 2;
	tag($g, 'recursion', 'key that can be null');
	tag_key($g, { of => $cte });
	return {
		text => "WITH RECURSIVE $cte AS ($recursion) SELECT $id, count(*) AS $rows, min($steps) AS $least FROM $cte GROUP BY $id",
		columns => [ [ $id, 'i' ], [ $rows, 'l' ], [ $least, 'i' ] ], key => [$id], sure => 0 };
}

# ---- whole queries

# A select of some form.
sub any_select
{
	my ($g, $outer, $depth, $where) = @_;
	my @bag = map { ($_) x $forms{$_}[$where] } sort keys %forms;
	my $select = $forms{ pick(@bag) }[0]->($g, $outer, $depth);

	if (chance(0.05) && $select->{text} !~ /LIMIT|ORDER BY \S+(?:, \S+)*$|^SELECT DISTINCT ON/ && !grep { $_->[1] eq 'n' } @{ $select->{columns} })
	{
		tag($g, 'LIMIT');
		$select->{text} .= ' ORDER BY ' . join(', ', 1 .. @{ $select->{columns} }) . ' LIMIT ' . pick(1, 2, 4);
	}
	return $select;
}

# A select with CTEs before it, which it may read, now and then.
sub with_ctes
{
	my ($g, $depth) = @_;
	my @with;
	my $select;

	if (chance(0.25) && !$g->{inner})
	{
		foreach my $number (1 .. pick(1, 1, 2))
		{
			my $cte = any_select($g, [], $depth > 1 ? 1 : 0, 2);
			my $how = pick('', '', 'MATERIALIZED ', 'NOT MATERIALIZED ');
			my $name = new_name($g, 'w');

			push @with, "$name AS $how($cte->{text})";
			push @{ $g->{ctes} }, { name => $name, columns => $cte->{columns}, key => $cte->{key}, sure => $cte->{sure}, tags => [ 'CTE', $how ? lc($how) . 'CTE' : () ] };
			$g->{budget}++;
		}
	}
	$select = any_select($g, [], $depth, $g->{inner} ? 3 : 1);
	if (@with && $select->{text} =~ /^WITH/)
	{
		$select->{text} = "SELECT * FROM ($select->{text}) AS whole";
	}
	$select->{text} = 'WITH ' . join(', ', @with) . " $select->{text}" if @with;
	return $select;
}

# Groups the rows of a select that has no key, or a long one.
sub wrapped
{
	my ($g, $select) = @_;
	my $alias = new_name($g, 'r');
	my $item = alias($g, '', $select, $alias);
	my @likely = @{ $item->{columns} }[ 0 .. (chance(0.6) ? 0 : $#{ $item->{columns} }) ];
	my @keys = some(pick(1, 2), @likely);
	my ($list, @columns) = outputs($g, 1, @keys, { sql => 'count(*)', type => 'l' }, shown_rows($item));

	tag($g, 'subquery in FROM', 'key that can be null');
	tag_key($g, @keys);
	return {
		text => "SELECT $list FROM ($select->{text}) AS $alias GROUP BY " . group_list(@keys), columns => \@columns,
		key => [ map { $columns[$_][0] } 0 .. $#keys ], sure => 0 };
}

# What a query is made of, before it is made.
sub new_state
{
	my ($relations, $budget) = @_;

	return { %$relations, ctes => [], names => 0, tags => {}, read => {}, budget => $budget, key_tags => [] };
}

# A query over tables, views and read models ({ tables => [...], views => [...], models => [...] }) that has something in it, if a tag is given: { text,
# key (as a literal), tags, verified, read (the names of what it reads, and maybe more), and as what others read: columns, names (of its key), sure }.
sub make_query
{
	my ($relations, $wanted) = @_;
	my ($g, $select);

	foreach my $attempt (1 .. 300)
	{
		$g = new_state($relations, pick(1, 2, 2, 3, 3, 4, 5, 6));
		$g->{inner} = chance(0.2);
		$select = with_ctes($g, $g->{inner} ? 0 : pick(0, 1, 1, 2, 2, 3));
		tag($g, 'tables and inner joins only') if $g->{inner};
		$select = wrapped($g, $select) if !$select->{key} || @{ $select->{key} } > 4 || chance(0.12);
		tag($g, @{ $g->{key_tags} });
		last if !$wanted || $g->{tags}{$wanted};
	}
	return {
		text => $select->{text}, key => @{ $select->{key} } ? "'{" . join(',', @{ $select->{key} }) . "}'" : q{'{}'}, tags => [ sort keys %{ $g->{tags} } ],
		verified => !grep({ $_->[1] =~ /[mcf]/ } @{ $select->{columns} }), read => [ sort keys %{ $g->{read} } ],
		columns => $select->{columns}, names => $select->{key}, sure => $select->{sure} };
}

# A view over tables and, more often than not, other views: { name, ..., text }.
sub make_view
{
	my ($relations, $name) = @_;
	my ($g, $select);

	foreach my $attempt (1 .. 4)
	{
		$g = new_state($relations, pick(1, 2, 2));
		$select = any_select($g, [], 1, 2);
		last if $g->{tags}{view} || !@{ $relations->{views} };
	}

	return {
		name => $name, columns => $select->{columns}, key => $select->{key}, sure => $select->{sure}, text => "CREATE VIEW $name AS $select->{text}",
		tags => [ 'view', sort(keys %{ $g->{tags} }), $g->{tags}{view} ? 'view in view' : () ] };
}

1;
