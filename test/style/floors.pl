# Rooms include headers of lower floors only.  If this fails, a change in an upper room can reach a lower one, and the way of a
# change through the rooms can no longer be told from the folder listing.
use strict;
use warnings;

use lib 'test/style';
use Sources;
use Test::More;

# From the ground up.  Rooms of one line do not include each other.
my @floors = (
	[qw(base)],
	[qw(settings window)],
	[qw(shared registry)],
	[qw(outbox plan event)],
	[qw(capture apply token command)],
	[qw(verify)],
	[qw(build)],
	[qw(projection erase worker status)],
	[qw(init)]);
my %floor;
my %arrows;

for my $number (0 .. $#floors)
{
	$floor{$_} = $number foreach @{ $floors[$number] };
}

# The room a file is in; a file of src itself is a room of its own.
sub room_of
{
	my ($path) = @_;

	return $path =~ m{^(?:src/)?(\w+)/} ? $1 : $path =~ m{(\w+)\.[ch]$} ? $1 : $path;
}

# A way from one room back to it, or nothing.
sub circle
{
	my (@way) = @_;

	foreach my $next (sort keys %{ $arrows{ $way[-1] } || {} })
	{
		return (@way, $next) if $next eq $way[0];
		next if grep { $_ eq $next } @way;
		my @found = circle(@way, $next);
		return @found if @found;
	}
	return ();
}

foreach my $path (c_files())
{
	my $room = room_of($path =~ s{^src/}{}r);
	my @wrong;

	ok(defined $floor{$room}, "$path is in a room that has a floor") or next;
	my $text = contents($path);
	while ($text =~ /^\s*#\s*include\s+"([^"]+)"/mg)
	{
		my $header = $1;

		next unless -f "src/$header" or -f "src/$room/$header";
		$header = "$room/$header" unless -f "src/$header";
		my $other = room_of($header);
		next if $other eq $room;
		$arrows{$room}{$other} = 1;
		push @wrong, $header if !defined $floor{$other} or $floor{$other} >= $floor{$room};
	}
	is("@wrong", '', "$path includes headers of lower floors only");
}
foreach my $room (sort keys %arrows)
{
	is(join(' -> ', circle($room)), '', "no circle of includes through $room");
}
done_testing();
