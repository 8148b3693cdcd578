/*
 * outbox/image.c
 *		From a row to its image: the columns that are imaged, laid out as in a heap tuple.
 *
 * A row of a table that is imaged whole has that layout on its page, and its image is there.  Else the values are put together in space that is used again
 * for the next row, so that nothing is allocated for a row once the space has its size.  Values stored out of line are fetched, but only those that are
 * imaged: a stored pointer to them would dangle.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/tupmacs.h"
#include "outbox/parts.h"
#include "utils/memutils.h"

#define INITIAL_SPACE	1024	/* bytes of data, and what is kept between transactions is no more than eight times that */

/* Where an image is put together. */
typedef struct Space
{
	char	   *data;
	Size		size;
	bits8		bits[(MaxTupleAttributeNumber + BITS_PER_BYTE - 1) / BITS_PER_BYTE];
} Space;

static MemoryContext context = NULL;
static Space spaces[2];

/*
 * grow makes a space at least so large, keeping what is in it.
 */
static void
grow(Space *space, Size needed)
{
	Size		size = Max(Max(space->size * 2, INITIAL_SPACE), needed);

	if (context == NULL)
		context = AllocSetContextCreate(TopMemoryContext, "cqrs images", ALLOCSET_DEFAULT_SIZES);
	space->data = space->data == NULL ? MemoryContextAllocHuge(context, size) : repalloc_huge(space->data, size);
	space->size = size;
}

/*
 * reserve makes room for a value at the next offset that suits it, and returns that offset; bytes left out on the way are zero.
 */
static inline Size
reserve(Space *space, Size used, Size alignment, Size length)
{
	Size		start = TYPEALIGN(alignment, used);

	if (unlikely(start + length > space->size))
		grow(space, start + length);
	while (used < start)
		space->data[used++] = 0;
	return start;
}

/*
 * put_reference copies a value that is passed by reference; returns the offset after it.
 */
static Size
put_reference(Space *space, Size used, const CqrsImagingColumn *column, Datum value)
{
	const char *bytes = DatumGetPointer(value);
	Size		alignment = column->alignment;
	Size		length = column->length;
	Size		start;

	if (column->length == -2)
		length = strlen(bytes) + 1;
	else if (column->length == -1)
	{
		if (VARATT_IS_EXTERNAL(bytes))
			bytes = (const char *) detoast_external_attr((struct varlena *) bytes);
		length = VARSIZE_ANY(bytes);
		if (VARATT_IS_SHORT(bytes))
			alignment = 1;
	}
	start = reserve(space, used, alignment, length);
	memcpy(space->data + start, bytes, length);
	return start + length;
}

/*
 * put_null notes that a column is null.
 */
static inline void
put_null(Space *space, CqrsImage *image, int column)
{
	if (!(image->flags & CQRS_IMAGE_NULLS))
		memset(space->bits, 0xff, BITMAPLEN(image->natts));
	image->flags |= CQRS_IMAGE_NULLS;
	space->bits[column >> 3] &= ~(1 << (column & 0x07));
}

/*
 * put_together makes an image of single values.
 */
static void
put_together(CqrsImage *image, Space *space, const CqrsImaging *imaging, TupleTableSlot *slot)
{
	const Datum *values = slot->tts_values;
	const bool *nulls = slot->tts_isnull;
	Size		used = 0;

	image->natts = imaging->ncolumns;
	image->flags = 0;
	for (int i = 0; i < imaging->ncolumns; i++)
	{
		const CqrsImagingColumn *column = &imaging->columns[i];

		if (nulls[column->from])
			put_null(space, image, i);
		else if (column->by_value)
		{
			Size		start = reserve(space, used, column->alignment, column->length);

			store_att_byval(space->data + start, values[column->from], column->length);
			used = start + column->length;
		}
		else
		{
			used = put_reference(space, used, column, values[column->from]);
			if (column->length < 0)
				image->flags |= CQRS_IMAGE_VARWIDTH;
		}
	}
	image->bits = space->bits;
	image->data = space->data;
	image->length = used;
}

/*
 * is_image tells whether a row is laid out as its image: no value out of line, and none that only the table's descriptor knows.
 *
 * A row written before ALTER TABLE ADD COLUMN is shorter than others.  That is fine for columns that are null in it, but not if one has a missing value, which
 * shapes do not keep.
 */
static inline bool
is_image(HeapTuple tuple, const CqrsImaging *imaging)
{
	int			natts;

	if (!imaging->whole || HeapTupleHasExternal(tuple))
		return false;
	natts = HeapTupleHeaderGetNatts(tuple->t_data);
	return natts == imaging->ncolumns || (natts < imaging->ncolumns && !imaging->missing);
}

/*
 * all_there tells whether a row has none of its first attributes missing or null.
 */
static inline bool
all_there(HeapTuple tuple, int natts)
{
	const bits8 *bits = tuple->t_data->t_bits;

	if (HeapTupleHeaderGetNatts(tuple->t_data) < natts)
		return false;
	if (!HeapTupleHasNulls(tuple))
		return true;
	for (; natts >= 8; natts -= 8)
		if (*bits++ != 0xff)
			return false;
	return (*bits | 0xff << natts) == (0xff << natts | 0xff);
}

/*
 * copy_runs makes an image of columns that stand in the same places in all rows; in the place of a single run it stays in the row.
 */
static inline void
copy_runs(CqrsImage *image, Space *space, const CqrsImaging *imaging, const char *data)
{
	const CqrsImagingRun *last = &imaging->runs[imaging->nruns - 1];

	image->natts = imaging->ncolumns;
	image->flags = 0;
	image->bits = NULL;
	image->length = last->to + last->length;
	image->data = data + last->from;
	if (imaging->nruns == 1)
		return;
	if (space->size < image->length)
		grow(space, image->length);
	memset(space->data, 0, image->length);
	for (int i = 0; i < imaging->nruns; i++)
		memcpy(space->data + imaging->runs[i].to, data + imaging->runs[i].from, imaging->runs[i].length);
	image->data = space->data;
}

/*
 * cqrs_image_make makes the image of a row.
 */
void
cqrs_image_make(CqrsImage *image, int side, const CqrsImaging *imaging, const CqrsRow *row)
{
	HeapTupleHeader header = row->tuple->t_data;

	if (imaging->nruns > 0 && all_there(row->tuple, imaging->deformed))
	{
		copy_runs(image, &spaces[side], imaging, (const char *) header + header->t_hoff);
		return;
	}
	if (!is_image(row->tuple, imaging))
	{
		slot_getsomeattrs(row->slot, imaging->deformed);
		put_together(image, &spaces[side], imaging, row->slot);
		return;
	}
	image->natts = HeapTupleHeaderGetNatts(header);
	image->flags = (HeapTupleHasNulls(row->tuple) ? CQRS_IMAGE_NULLS : 0) |
		(HeapTupleHasVarWidth(row->tuple) ? CQRS_IMAGE_VARWIDTH : 0);
	image->bits = header->t_bits;
	image->data = (const char *) header + header->t_hoff;
	image->length = row->tuple->t_len - header->t_hoff;
}

/*
 * cqrs_image_forget gives back what large rows took.
 */
void
cqrs_image_forget(void)
{
	for (int side = 0; side < lengthof(spaces); side++)
	{
		if (spaces[side].size <= 8 * INITIAL_SPACE)
			continue;
		pfree(spaces[side].data);
		spaces[side].data = NULL;
		spaces[side].size = 0;
	}
}
