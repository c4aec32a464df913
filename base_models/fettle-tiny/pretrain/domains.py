"""Sixty invented domains, the raw material of the pre-training tool calls: verbs, things and places of each."""

from dataclasses import dataclass

_TABLE = """
library: reserve renew return catalogue | book atlas magazine manuscript | reading hall, archive, annex, front desk
airport: delay board reroute announce | flight shuttle charter passenger | gate four, terminal two, runway, hangar
bakery: bake order glaze deliver | loaf croissant pretzel wedding cake | oven one, counter, market stall, cellar
clinic: book cancel confirm move | appointment checkup vaccination blood test | \
north wing, ward six, laboratory, reception
zoo: feed weigh transfer examine | penguin giraffe tortoise otter | aviary, reptile house, meadow, quarantine
orchard: pick prune spray count | apple pear cherry plum | upper slope, south row, old terrace, greenhouse
harbour: dock tow inspect refuel | ferry trawler barge yacht | east pier, dry dock, breakwater, slipway
theatre: rehearse cast schedule cancel | play ballet recital monologue | main stage, studio, balcony, foyer
observatory: track photograph calibrate log | comet nebula satellite asteroid | dome, ridge, control tower, array
brewery: brew bottle taste discard | lager stout cider porter | tank nine, tasting bar, malt floor, depot
museum: lend restore exhibit insure | painting statue vase fossil | west gallery, vault, workshop, sculpture court
stable: groom saddle exercise shoe | horse pony mule foal | paddock, arena, hay barn, outer field
post office: send forward weigh hold | parcel letter postcard crate | sorting room, counter three, branch, depot
school: grade assign collect postpone | essay exam worksheet project | chemistry lab, gym, assembly hall, class nine
ski resort: groom close open patrol | slope lift chalet trail | summit, glacier, valley station, black run
quarry: blast haul crush survey | granite marble gravel slate | pit two, rim, conveyor, loading bay
bank: transfer freeze approve audit | account loan deposit cheque | main branch, vault, trading floor, back office
newspaper: publish edit retract pitch | article headline interview obituary | \
front page, sports section, archive, weekend issue
railway: dispatch delay couple inspect | train wagon locomotive tram | platform eight, depot, junction, tunnel
farm: harvest plough water fence | wheat barley maize clover | lower field, silo, creek side, hill plot
hotel: reserve upgrade clean extend | suite cabin penthouse dormitory | floor three, annex, seaside wing, courtyard
restaurant: cook plate order refund | soup risotto salad omelette | table nine, terrace, bar, chef counter
laboratory: heat dilute label discard | sample reagent culture enzyme | fume hood, freezer, bench two, clean zone
fire brigade: dispatch inspect train equip | engine ladder crew pump | station five, river district, old town, yard
vineyard: crush ferment rack taste | merlot riesling pinot muscat | barrel row, press house, cave, hillside
print shop: print bind fold laminate | poster flyer brochure calendar | press one, cutting table, front desk, dispatch
aquarium: feed clean restock measure | shark seahorse octopus ray | reef tank, tide pool, lagoon, filter deck
cinema: screen preview dub advertise | film trailer documentary cartoon | screen two, lobby, drive in, festival tent
garage: repair tow repaint inspect | truck scooter tractor caravan | bay four, paint booth, yard, test track
pharmacy: dispense refill order recall | syrup tablet ointment inhaler | counter, cold store, night window, stockroom
chess club: pair rank invite adjourn | player match tournament novice | board one, annex, reading hall, cafe
space station: dock vent scan repair | capsule antenna solar panel probe | node three, airlock, truss, cargo module
tailor: hem stitch measure press | jacket gown kilt waistcoat | fitting table, window, loft, workshop
radio station: broadcast record mute schedule | jingle bulletin concert debate | studio b, transmitter, van, archive
weather office: forecast measure report verify | storm frost drought heatwave | coast, plateau, delta, northern valley
bicycle rental: rent return unlock service | bicycle tandem trailer unicycle | river dock, plaza, campus, hill station
warehouse: store ship pick relabel | pallet carton drum spool | aisle seven, mezzanine, cold zone, loading dock
dentist: polish fill extract scan | molar crown filling incisor | chair two, clinic, laboratory, recovery
courthouse: file adjourn appeal schedule | case motion verdict hearing | chamber one, registry, annex, jury hall
florist: arrange deliver wrap trim | bouquet orchid tulip wreath | window, chapel, market, cooler
recycling: sort shred compact weigh | glass plastic copper cardboard | line two, bunker, scale house, yard
stadium: book seat evacuate sell | ticket match concert season pass | north stand, box twelve, pitch, gate six
census: count survey interview verify | household village worker migrant | \
district nine, province, island, old quarter
mine: drill ventilate seal survey | shaft seam tunnel lode | level four, adit, surface, winding tower
translation: translate proofread deliver quote | contract novel subtitle manual | \
desk two, archive, review queue, agency
choir: rehearse record tune perform | hymn madrigal anthem carol | chapel, nave, gallery, village green
fishing: cast weigh smoke release | salmon trout herring cod | jetty, cannery, ice store, river mouth
dairy: milk churn age sell | butter cheese yoghurt cream | cold store, parlour, ripening cave, shop
debate team: argue judge time score | motion rebuttal opening summary | podium, hall b, final round, league
cartography: draw survey print revise | map chart contour boundary | coast sheet, grid nine, archive, border
pottery: glaze fire throw sell | bowl jug tile teapot | kiln one, wheel, drying rack, fair
bus company: dispatch cancel extend clean | coach minibus route shuttle | central stop, depot, ring road, suburb
forest service: plant fell mark protect | oak birch cedar spruce | east ridge, nursery, creek, burned area
insurance: file approve reject renew | claim policy premium quote | branch two, review board, archive, hotline
puppet show: carve paint perform mend | marionette shadow glove giant | booth, fairground, loft, square
tea house: brew serve blend import | oolong sencha chamomile assam | veranda, tasting table, back store, garden
archaeology: dig catalogue date photograph | shard coin mosaic skeleton | trench six, field tent, museum, hill fort
beekeeping: inspect requeen harvest move | hive swarm comb nucleus | meadow, orchard edge, rooftop, heather moor
dance school: teach rehearse enrol stage | tango waltz ballet salsa | mirror hall, studio four, open air, gala
game studio: build test release patch | level sprite quest shader | branch main, sandbox, console, beta
"""


@dataclass(frozen=True)
class Domain:
    name: str
    verbs: tuple[str, ...]
    things: tuple[str, ...]
    places: tuple[str, ...]


def read_domains() -> list[Domain]:
    domains = [_read_line(line) for line in _TABLE.strip().splitlines()]
    assert len(domains) == 60
    return domains


def _read_line(line: str) -> Domain:
    name, rest = line.split(": ", 1)
    verbs, things, places = rest.split(" | ")
    return Domain(name, tuple(verbs.split()), tuple(things.split()), tuple(places.split(", ")))


def invent_domain(syllables: list[str]) -> Domain:
    """A domain of nonsense words; `syllables` are taken in pairs, so that names can only be copied, not remembered."""
    words = [first + second for first, second in zip(syllables[::2], syllables[1::2], strict=True)]
    return Domain(words[0], tuple(words[1:5]), tuple(words[5:9]), tuple(words[9:13]))
