//! Gets what an image names, wherever it is: from the disk, from the cache, from the network, or built.

use super::{
    System, build, customise,
    fetch::{self, Patience},
    resolve,
    store::ImageStore,
};
use crate::{context::CallContext, host::process::Spawner};
use vmdeck_model::{
    catalogue::NamedImage,
    error::{Fault, Result},
    image::{BuildWay, Image, Recipe, RemoteImage},
};

/// Returns what a machine boots, fetched or built where it is not here; `None` for this host's own root. `arch` = the processor of
/// the machine, as vmdeck names it.
pub async fn obtain(
    store: &ImageStore,
    image: &Image,
    arch: &str,
    spawner: &Spawner,
    context: CallContext<'_>,
) -> Result<Option<System>> {
    let patience = Patience::default();
    let system = match image {
        Image::Host => return Ok(None),
        Image::File(path) => return System::open(path).map(Some),
        Image::Remote(wanted) => fetch::fetch(store, wanted, patience, context).await?,
        Image::Named(named) => named_image(store, named, arch, false, context).await?,
        Image::Built(recipe) => match &recipe.way {
            BuildWay::Packages => build::build(store, recipe, spawner, context).await?,
            BuildWay::Boot(base) => {
                customise::find(store, recipe, base, arch)?.ok_or_else(|| customise::unbuilt(recipe))?
            }
        },
    };
    trim(store, context);
    Ok(Some(system))
}

/// Removes from a cache that has become too large what nothing uses.
fn trim(store: &ImageStore, context: CallContext<'_>) {
    store.trim(&mut |name| (context.progress)(&format!("removed the image {name} from the cache: nothing uses it")));
}

/// Looks a name up anew, gets the image that it stands for now, and writes that down.
pub async fn renew(store: &ImageStore, named: &NamedImage, arch: &str, context: CallContext<'_>) -> Result<System> {
    let system = named_image(store, named, arch, true, context).await?;
    trim(store, context);
    Ok(system)
}

async fn named_image(
    store: &ImageStore,
    named: &NamedImage,
    arch: &str,
    renew: bool,
    context: CallContext<'_>,
) -> Result<System> {
    let patience = Patience::default();
    let resolved = resolve::resolve(store, named, arch, renew, patience, context).await.map_err(|fault| {
        let hint = format!("`image = {{ build = \"{}\" }}` builds it from packages instead", named.name);
        if build::knows(&named.name) && fault.remedy().is_none() { fault.hint(hint) } else { fault }
    })?;
    if renew {
        (context.progress)(&format!("{} is {}", named.name, resolved.image.url));
    }
    let system = fetch::fetch(store, &resolved.image, patience, context).await.map_err(|fault| {
        // Only an address that leads nowhere: other bytes than the expected are no reason to believe newer ones.
        if renew || fault.remedy() != Some(fetch::CHECK_ADDRESS) {
            return fault;
        }
        fault.hint(format!(
            "an old image vanishes from its server some day; `vmdeck image update {}` takes a newer one",
            named.name
        ))
    })?;
    resolve::keep(store, named, arch, &resolved, renew, context).await?;
    Ok(system)
}

/// Where an image is now.
#[derive(Debug)]
pub enum ImagePlace {
    /// It is a file of the user's, or this host's own root.
    Own,
    /// It is in the cache.
    Cached,
    /// It has to be fetched from here.
    Elsewhere(RemoteImage),
    /// It has to be looked up first.
    Unknown,
    /// It has to be built.
    Unbuilt(Recipe),
}

/// Returns where an image is, without asking anybody.
pub fn place(store: &ImageStore, image: &Image, arch: &str) -> Result<ImagePlace> {
    let of_remote = |wanted: RemoteImage| {
        if fetch::is_cached(store, &wanted) { ImagePlace::Cached } else { ImagePlace::Elsewhere(wanted) }
    };
    Ok(match image {
        Image::Host => ImagePlace::Own,
        Image::File(path) => System::open(path).map(|_| ImagePlace::Own)?,
        Image::Remote(wanted) => of_remote(wanted.clone()),
        Image::Named(named) => resolve::locked(named, arch)?.map_or(ImagePlace::Unknown, of_remote),
        Image::Built(recipe) => {
            let built = match &recipe.way {
                BuildWay::Packages => build::find(store, recipe)?,
                BuildWay::Boot(base) => customise::find(store, recipe, base, arch)?,
            };
            built.map_or_else(|| ImagePlace::Unbuilt((**recipe).clone()), |_| ImagePlace::Cached)
        }
    })
}

/// Returns what stands in the way of getting an image that is at this place.
pub fn hindrance(store: &ImageStore, place: &ImagePlace) -> Option<Fault> {
    if let ImagePlace::Unbuilt(recipe) = place {
        let lacks = match recipe.way {
            BuildWay::Packages => build::missing(recipe),
            // A run that boots another machine is one of its own.
            BuildWay::Boot(_) => Some(customise::unbuilt(recipe)),
        };
        if lacks.is_some() {
            return lacks;
        }
    }
    let is_here = matches!(place, ImagePlace::Own | ImagePlace::Cached);
    (store.offline && !is_here).then(|| {
        Fault::host("the image is not in the cache")
            .because("`images.offline` is set")
            .hint("get it once without, by `vmdeck image pull` or `vmdeck image build`")
    })
}
